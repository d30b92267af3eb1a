"""One function per kind of claim: (claim, run) -> `Finding`, computed from raw records through `Run`.

Every function raises `NotMeasured` if the run lacks the records of the claim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from tir.analysis.bootstrap import weighted_median
from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import (
    FAILS,
    HOLDS,
    UNCLEAR,
    Finding,
    NotMeasured,
    direction,
    equivalence,
    exact,
    value,
)
from tir.analysis.contrast import contrast
from tir.analysis.numbers import fixed, points
from tir.analysis.statistics import Comparison, wilson
from tir.analysis.tables.inputs import read_rows
from tir.analysis.tables.trajectories import Behaviour, items_of, text_category

Claim = Mapping[str, Any]


def difference(claim: Claim, run: Run) -> Finding:
    """a minus b in points, paired over items; Holm's correction over all claims on that column."""
    compared = run.comparison(claim["a"], claim["b"], claim["column"])
    numbers = [100 * fraction for fraction in (compared.difference, compared.lo, compared.hi)]
    if compared.p is None:
        return Finding(UNCLEAR, numbers[0], n=f"{compared.n} items")
    finding = direction(*numbers, claim["stated"], p=compared.p_holm, n=_size(compared))
    tested = f"p = {fixed(compared.p, 3)}, {fixed(compared.p_holm, 3)} corrected for {compared.family}"
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
    lo, hi = (measured * math.exp(edge) for edge in contrast([array.mean(axis=2) for array in scaled]).interval())
    return value(measured, lo, hi, claim["stated"], claim["tolerance"], n)


def wins(claim: Claim, run: Run) -> Finding:
    """Number of benchmarks on which a is at least as good as b.

    The claim holds if a is significantly better on the stated number of benchmarks. It does not hold if a is
    significantly worse on so many that fewer remain.
    """
    compared = [run.comparison(claim["a"], claim["b"], benchmark) for benchmark in run.benchmarks]
    count, stated = sum(each.difference >= 0 for each in compared), claim["stated"]
    clear = [each.difference for each in compared if each.p_holm is not None and each.p_holm < 0.05]
    won, lost = (sum(sign * difference > 0 for difference in clear) for sign in (1, -1))
    verdict = HOLDS if won >= stated else FAILS if lost > len(compared) - stated else UNCLEAR
    return Finding(verdict, count, n=f"{len(compared)} benchmarks", why=f"{won} won and {lost} lost beyond chance")


def tool_calls(claim: Claim, run: Run) -> Finding:
    """Difference in tool calls written per question, averaged over benchmarks with equal weight."""
    pair = [run.calls(claim[name], claim["task"]) for name in "ab"]
    found = contrast([(calls - pair[1][name])[None] for name, calls in pair[0].items()], paired=True)
    return direction(found.value, *found.interval(), claim["stated"], n=f"{found.n} items")


def category_share(claim: Claim, run: Run) -> Finding:
    """Share of the fine-tuning trajectories in a tool category, counted over the whole file."""
    counts = Counter(text_category(row, str(path)) for path in run.inputs.data for row in read_rows(path))
    total = sum(counts.values())
    if not total:
        raise NotMeasured("no fine-tuning data was given")
    measured = counts[claim["category"]] / total
    return exact(
        measured, abs(measured - claim["stated"]) < 5e-5, f"{counts[claim['category']]} of {total}", f"{total} rows"
    )


def bigram_ratio(claim: Claim, run: Run) -> Finding:
    """P(correct | first) over P(correct | second), items resampled with their trajectories."""
    trajectories = run.trajectories(claim.get("task"))
    bigrams = [tuple(claim[name]) for name in ("first", "second")]
    verdicts = [each.correct for each in trajectories]
    shares, draws = _bigram_draws(trajectories, bigrams, verdicts, run, claim["id"])
    if shares is None:
        raise NotMeasured(f"{' or '.join('→'.join(bigram) for bigram in bigrams)} does not occur")
    if shares[1] == 0:
        return Finding(UNCLEAR, why="the second bigram never ends well, so the ratio is infinite")
    lo, hi = _interval(np.minimum(draws[0] / np.maximum(draws[1], 1e-12), 1e6))
    return direction(shares[0] / shares[1], lo, hi, claim["stated"], null=1.0, n=f"{len(trajectories)} trajectories")


def bigram_every_metric(claim: Claim, run: Run) -> Finding:
    """The difference between two bigrams under each metric of the records; every interval must exclude 0.

    Reports the metric that decides: one with the opposite order, else one whose interval contains 0, else the one with
    the smallest difference.
    """
    trajectories, findings = run.trajectories(), []
    bigrams = [tuple(claim[name]) for name in ("first", "second")]
    for metric, values in run.trajectory_metrics().items():
        shares, draws = _bigram_draws(trajectories, bigrams, values, run, claim["id"])
        if shares is None:
            raise NotMeasured("one of the bigrams does not occur")
        findings.append((metric, direction(float(shares[0] - shares[1]), *_interval(draws[0] - draws[1]), 1.0)))
    metric, decisive = min(
        findings, key=lambda pair: ((FAILS, UNCLEAR, HOLDS).index(pair[1].verdict), pair[1].measured)
    )
    return replace(
        decisive,
        n=f"{len(trajectories)} trajectories, {len(findings)} metrics",
        why=f"least under {metric}: {decisive.why}",
        stated_inside=None,
    )


def offset_difference(claim: Claim, run: Run) -> Finding:
    """Median characters before the first tool: correct minus incorrect trajectories, items resampled."""
    trajectories = [each for each in run.trajectories(claim.get("task")) if each.offset >= 0]
    offsets, correct = (np.array([getattr(each, name) for each in trajectories]) for name in ("offset", "correct"))
    groups = [offsets[correct == verdict] for verdict in (True, False)]
    if min(map(len, groups)) < 5:
        raise NotMeasured(f"{len(groups[0])} correct and {len(groups[1])} incorrect trajectories use a tool")
    items = items_of(trajectories)
    weights = _drawn_items(items, run, claim["id"])[:, items]
    draws = [weighted_median(group, weights[:, correct == verdict]) for group, verdict in zip(groups, (True, False))]
    return direction(
        float(np.median(groups[0]) - np.median(groups[1])),
        *_interval(draws[0] - draws[1]),
        claim["stated"],
        n=f"{len(trajectories)} trajectories",
    )


def metric_change(claim: Claim, run: Run) -> Finding:
    """Last minus first value of a training metric, over seeds. Each is the mean of a fifth of the steps, except for
    `validation`, where it is one value."""
    curve = run.curve(claim["arm"], claim["metric"])
    width = max(1, curve.shape[1] // 5) if claim["metric"] != "validation" else 1
    ends = [curve[:, :width].mean(axis=1), curve[:, -width:].mean(axis=1)]
    if claim.get("relative") and (ends[0] == 0).any():
        return Finding(UNCLEAR, why="a seed starts at 0, so its relative change is infinite")
    change = (ends[1] - ends[0]) / (np.abs(ends[0]) if claim.get("relative") else 1)
    return _over_seeds(change, claim["stated"])


def metric_growth(claim: Claim, run: Run) -> Finding:
    """Last value of a training metric divided by the value at half of the steps, over seeds."""
    curve = run.curve(claim["arm"], claim["metric"])
    middle = curve[:, curve.shape[1] // 2]
    if (middle == 0).any():
        return Finding(UNCLEAR, why="a seed's value half-way is 0, so the ratio is infinite")
    return _over_seeds(curve[:, -1] / middle, claim["stated"], null=1.0)


def slope_ratio(claim: Claim, run: Run) -> Finding:
    """Rise in the second half of a training curve divided by the rise in the first half, over seeds."""
    curve = run.curve(claim["arm"], claim["metric"])
    if curve.shape[1] < 3:
        raise NotMeasured("the curve has fewer than three points")
    middle = curve.shape[1] // 2
    first, second = curve[:, middle] - curve[:, 0], curve[:, -1] - curve[:, middle]
    if (first <= 0).any():
        return Finding(UNCLEAR, why="a seed does not rise at all in the first half")
    return _over_seeds(second / first, claim["stated"], null=1.0)


def metric_difference(claim: Claim, run: Run) -> Finding:
    """Difference of two arms' last value of a training metric, seed by seed."""
    pair = [run.curve(claim[name], claim["metric"]) for name in "ab"]
    return _over_seeds(pair[0][:, -1] - pair[1][:, -1], claim["stated"])


def phi_on_qa(claim: Claim, run: Run) -> Finding:
    """Largest share of QA trajectories for which a term of phi is not 0, over all steps and seeds, without sampling."""
    # A rate is logged only at steps that have such trajectories (for example wrong QA trajectories).
    rates = {
        name: run.logged(claim["arm"], name)
        for name in run.metric_names(claim["arm"])
        if name.startswith("aspo/fire/") and "/qa/" in name
    }
    if not rates:
        raise NotMeasured("no firing rates were logged")
    name, highest = max(((name, max(values)) for name, values in rates.items()), key=lambda pair: pair[1])
    return exact(highest, highest == 0.0, f"highest in one step: {name}", f"{len(rates)} rates")


def compute_share(claim: Claim, run: Run) -> Finding:
    """Number of trajectories sampled in RL divided by that of the published run."""
    share = run.facts["trajectories"] / claim["published_trajectories"]
    lo, hi = claim["stated"]
    return exact(
        share, lo <= share <= hi, f"{run.facts['trajectories']:,} of {claim['published_trajectories']:,} trajectories"
    )


def half_width(claim: Claim, run: Run) -> Finding:
    """Half the width of Wilson's interval at n for a proportion of 0.5, where it is widest, in points."""
    lo, hi = wilson(claim["n"] / 2, claim["n"])
    measured = 50 * (hi - lo)
    wald = 100 * stats.norm.ppf(0.975) * 0.5 / claim["n"] ** 0.5
    return exact(
        measured,
        fixed(measured, 0) == str(claim["stated"]),
        f"Wilson at p = .5; Wald gives {fixed(wald, 1)}",
        f"n = {claim['n']}",
    )


def best_epoch(claim: Claim, run: Run) -> Finding:
    """The epoch with the lowest evaluation loss."""
    losses = run.sft("evaluations")
    if not losses:
        raise NotMeasured("no evaluation loss was logged")
    best = min(range(len(losses)), key=lambda epoch: losses[epoch][1]) + 1
    return exact(best, best == claim["stated"], ", ".join(fixed(loss, 4) for _, loss in losses), "one run")


def losses_ordered(claim: Claim, run: Run) -> Finding:
    """Whether evaluation loss is below the mean training loss of the same epoch, for every epoch."""
    losses, evaluations = run.sft("losses"), run.sft("evaluations")
    if not evaluations:
        raise NotMeasured("no evaluation loss was logged")
    start, gaps = 0, []
    for end, evaluation_loss in evaluations:
        gaps.append(evaluation_loss - np.mean([loss for step, loss in losses if start < step <= end]))
        start = end
    return exact(float(max(gaps)), max(gaps) < 0, "largest gap, evaluation minus training", f"{len(gaps)} epochs")


def _over_seeds(values: np.ndarray, stated: float, null: float = 0.0) -> Finding:
    """A direction over seeds by Student's t. One seed has no interval, so the verdict stays open."""
    measured = float(values.mean())
    if len(values) < 2:
        return Finding(UNCLEAR, measured, n="1 seed", why="one run has no interval over runs")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return direction(measured, measured - half, measured + half, stated, null=null, n=f"{len(values)} seeds")


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of resamples. NaN resamples (a bigram was not drawn) are ignored up to 2.5 %, the size of one
    tail; above that the interval is NaN."""
    if np.isnan(draws).mean() > 0.025:
        return float("nan"), float("nan")
    lo, hi = np.nanquantile(draws, (0.025, 0.975))
    return float(lo), float(hi)


def _drawn_items(items: np.ndarray, run: Run, name: str) -> np.ndarray:
    """How often each item is drawn, shape (resamples, items); `items` is the item index of each trajectory."""
    count = items.max() + 1
    return run.random(name).multinomial(count, np.full(count, 1 / count), run.resamples)


def _bigram_draws(
    trajectories: list[Behaviour], bigrams: list[tuple[str, ...]], values: list[float], run: Run, name: str
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Mean value per occurrence of each bigram, shape (bigrams,), and its bootstrap over items, (bigrams, resamples).

    (None, None) if one of the bigrams does not occur.

    Args:
        values: a metric of each trajectory.
    """
    counts = [[trajectory.bigrams.count(bigram) for bigram in bigrams] for trajectory in trajectories]
    trials = np.array(counts, float).reshape(-1, len(bigrams))
    if not trials.sum(axis=0).all():
        return None, None
    hits = trials * np.array(values, float)[:, None]
    items = items_of(trajectories)
    weights = _drawn_items(items, run, name)[:, items]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = ((weights @ hits) / (weights @ trials)).T
    return hits.sum(axis=0) / trials.sum(axis=0), draws


EVALUATORS: dict[str, Callable[[Claim, Run], Finding]] = {
    function.__name__: function
    for function in (
        difference,
        ratio,
        wins,
        tool_calls,
        category_share,
        bigram_ratio,
        bigram_every_metric,
        offset_difference,
        metric_change,
        metric_growth,
        slope_ratio,
        metric_difference,
        phi_on_qa,
        compute_share,
        half_width,
        best_epoch,
        losses_ordered,
    )
} | {"equivalence": equal}
