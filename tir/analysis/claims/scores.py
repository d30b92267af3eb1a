"""Claims about scores: differences, ratios, wins, values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import FAILS, HOLDS, UNCLEAR, Finding, direction, equivalence, value
from tir.analysis.contrast import contrast
from tir.analysis.numbers import points, probability
from tir.analysis.statistics import Comparison, study

Claim = Mapping[str, Any]


def difference(claim: Claim, run: Run) -> Finding:
    """a minus b in points, paired over items; Holm's correction over all claims on that column."""
    compared = run.comparison(claim["a"], claim["b"], claim["column"])
    numbers = [100 * fraction for fraction in (compared.difference, compared.lo, compared.hi)]
    if compared.p is None:
        return Finding(UNCLEAR, numbers[0], n=f"{compared.n} items")
    finding = direction(*numbers, claim["stated"], p=compared.p_holm, n=_size(compared))
    tested = f"p {probability(compared.p, equals=True)}, {probability(compared.p_holm)} corrected for {compared.family}"
    detectable = f"; smallest detectable difference {points(compared.minimum_detectable)}"
    needed = f", items needed for this one {compared.items_needed:,}" if compared.items_needed else ""
    return replace(finding, why=tested + detectable + needed)


def equal(claim: Claim, run: Run) -> Finding:
    """No difference between a and b larger than a margin in points."""
    compared = run.comparison(claim["a"], claim["b"], claim["column"])
    numbers = [100 * fraction for fraction in (compared.difference, compared.lo, compared.hi)]
    return equivalence(*numbers, claim["stated"], claim["margin"], _size(compared))


def _size(compared: Comparison) -> str:
    return f"{compared.n} items" + (f", {compared.seeds} seeds" if compared.seeds > 1 else "")


def ratio(claim: Claim, run: Run) -> Finding:
    """a divided by b. The interval is that of the logarithm, whose contrast is a / mean(a) - b / mean(b)."""
    pair = [run.scores(claim[name], claim["column"]) for name in "ab"]
    means = [np.mean([array.mean() for array in scores.values()]) for scores in pair]
    n = f"{sum(array.shape[1] for array in pair[0].values())} items"
    if not all(means):
        return Finding(UNCLEAR, n=n, why="one of the scores is 0, so the ratio is 0 or infinite")
    scaled = [pair[0][name] / means[0] - pair[1][name] / means[1] for name in pair[0]]
    measured = float(means[0] / means[1])
    found = contrast([array.mean(axis=2) for array in scaled], paired=True)
    lo, hi = (measured * math.exp(edge) for edge in found.interval())
    return value(measured, lo, hi, claim["stated"], claim["tolerance"], n)


def wins(claim: Claim, run: Run) -> Finding:
    """Number of benchmarks on which a is at least as good as b.

    The claim holds if a is significantly better on the stated number of benchmarks. It does not hold if a is
    significantly worse on so many that fewer remain. Each p-value is multiplied by the number of benchmarks from which
    the last one needed is chosen (partial conjunction: Benjamini and Heller, 2008).
    """
    compared = [run.comparison(claim["a"], claim["b"], benchmark) for benchmark in run.benchmarks]
    count, stated = sum(each.difference >= 0 for each in compared), claim["stated"]
    tested = [each for each in compared if each.p_holm is not None]
    won = sum(each.difference > 0 and (len(compared) - stated + 1) * each.p_holm < 0.05 for each in tested)
    lost = sum(each.difference < 0 and stated * each.p_holm < 0.05 for each in tested)
    verdict = HOLDS if won >= stated else FAILS if lost > len(compared) - stated else UNCLEAR
    return Finding(verdict, count, n=f"{len(compared)} benchmarks", why=f"{won} won and {lost} lost beyond chance")


def concentration(claim: Claim, run: Run) -> Finding:
    """a minus b on one average (`inside`), minus the same on another (`outside`), in points."""
    averages = {name: run.members(claim[name]) for name in ("inside", "outside")}
    a, b = (run.scores(claim[name], "Avg") for name in "ab")
    size = sum(map(len, averages.values()))
    signs = {"inside": 1, "outside": -1}
    tables = [
        signs[side] * size / len(members) * (a[name].mean(axis=2) - b[name].mean(axis=2))
        for side, members in averages.items()
        for name in members
    ]
    found = contrast(tables, paired=True)
    numbers = [100 * fraction for fraction in (found.value, *found.interval())]
    n = f"{found.n} items" + (f", {found.seeds} seeds" if found.seeds > 1 else "")
    return direction(*numbers, claim["stated"], n=n)


def score(claim: Claim, run: Run) -> Finding:
    """A model's score on a column, in points."""
    scores = run.scores(claim["model"], claim["column"])
    found = study({claim["model"]: scores}, macros={"all": list(scores)}).estimates[claim["model"], "all"]
    numbers = [100 * fraction for fraction in (found.score, found.lo, found.hi)]
    return value(*numbers, claim["stated"], claim["tolerance"], f"{found.n} items")
