"""Claims about training: curves of RL metrics, losses of fine-tuning, its data and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from tir.analysis.claims.run import PAPER_STEPS, Run
from tir.analysis.claims.verdict import UNCLEAR, Finding, NotMeasured, direction, exact
from tir.analysis.contrast import all_equal
from tir.analysis.numbers import fixed
from tir.analysis.statistics import wilson
from tir.data.rl_rows import read_rl_rows

Claim = Mapping[str, Any]


def metric_change(claim: Claim, run: Run) -> Finding:
    """Change of a training metric between two steps, over seeds; `relative`: as a part of the first value."""
    first, last = run.curve(claim["arm"], claim["metric"], claim["steps"]).T
    if claim.get("relative") and (first == 0).any():
        return Finding(UNCLEAR, why="a seed starts at 0, so its relative change is infinite")
    return _over_seeds((last - first) / (np.abs(first) if claim.get("relative") else 1), claim["stated"])


def metric_growth(claim: Claim, run: Run) -> Finding:
    """A training metric at one step divided by its value at an earlier one, over seeds."""
    first, last = run.curve(claim["arm"], claim["metric"], claim["steps"]).T
    if (first == 0).any():
        return Finding(UNCLEAR, why="a seed's earlier value is 0, so the ratio is infinite")
    return _over_seeds(last / first, claim["stated"], null=1.0)


def slope_ratio(claim: Claim, run: Run) -> Finding:
    """Slope of a training curve between the last two of three steps divided by that between the first two."""
    start, middle, end = run.curve(claim["arm"], claim["metric"], claim["steps"]).T
    early, late = np.diff(run.read_steps(claim["arm"], claim["metric"], claim["steps"]))
    if (middle <= start).any():
        return Finding(UNCLEAR, why="a seed does not rise at all in the first half")
    return _over_seeds((end - middle) / late / ((middle - start) / early), claim["stated"], null=1.0)


def metric_difference(claim: Claim, run: Run) -> Finding:
    """Difference of two arms' last value of a training metric, seed by seed."""
    pair = [run.curve(claim[name], claim["metric"], [PAPER_STEPS])[:, 0] for name in "ab"]
    return _over_seeds(pair[0] - pair[1], claim["stated"])


def metric_below(claim: Claim, run: Run) -> Finding:
    """The mean of a training metric over all steps is below a number, over seeds."""
    found = _over_seeds(run.means(claim["arm"], claim["metric"]), claim["below"] - 1, null=claim["below"])
    return replace(found, stated_inside=None)


def trajectories(claim: Claim, run: Run) -> Finding:
    """Number of trajectories that RL samples for an arm and a seed, by the configuration."""
    return exact(run.facts["trajectories"], run.facts["trajectories"] == claim["stated"], "by the configuration")


def data_mixture(claim: Claim, run: Run) -> Finding:
    """Share of an ability among the prompts of the RL data, counted over the whole file."""
    abilities = [row["ability"] for path in run.data(".parquet") for row in read_rl_rows(path)]
    if not abilities:
        raise NotMeasured("no RL data was given")
    share = abilities.count(claim["ability"]) / len(abilities)
    counted = f"{abilities.count(claim['ability'])} of {len(abilities)}"
    return exact(share, abs(share - claim["stated"]) < 0.05, counted, f"{len(abilities)} prompts")


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
    losses = run.sft("full", "evaluations")
    if not losses:
        raise NotMeasured("no evaluation loss was logged")
    best = min(range(len(losses)), key=lambda epoch: losses[epoch][1]) + 1
    return exact(best, best == claim["stated"], ", ".join(fixed(loss, 4) for _, loss in losses), "one run")


def losses_ordered(claim: Claim, run: Run) -> Finding:
    """Whether evaluation loss is below the mean training loss of the same epoch, for every epoch."""
    losses, evaluations = (run.sft(claim["run"], curve) for curve in ("losses", "evaluations"))
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
    if all_equal(values):
        why = "all seeds are equal, so their noise is unknown"
        return Finding(UNCLEAR, measured, n=f"{len(values)} seeds", why=why)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return direction(measured, measured - half, measured + half, stated, null=null, n=f"{len(values)} seeds")
