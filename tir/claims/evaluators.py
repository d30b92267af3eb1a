"""One function per kind of claim: (claim, run) -> `Finding`. Each reads raw records through `Run`, never a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from tir.claims.run import Run
from tir.claims.verdict import FAILS, HOLDS, UNCLEAR, Finding, direction, equivalence, exact, unmeasured, value
from tir.resampling import seed_spread, weighted_median
from tir.statistics import wilson
from tir.tables.inputs import read_rows
from tir.tables.trajectories import Behaviour, items_of, text_category

Claim = Mapping[str, Any]


def difference(claim: Claim, run: Run) -> Finding:
    """a minus b in points, paired over items; Holm's correction over all claims on that column."""
    found = run.comparison(claim["a"], claim["b"], claim["column"])
    if isinstance(found, str):
        return unmeasured(found)
    numbers = [100 * each for each in (found.difference, found.lo, found.hi)]
    each = direction(*numbers, claim["stated"], p=found.p_holm, n=f"{found.n} items")
    detectable = f"; smallest detectable difference {100 * found.minimum_detectable:.1f}"
    needed = f", items needed for this one {found.items_needed:,}" if found.items_needed else ""
    return replace(each, why=each.why + detectable + needed)


def equal(claim: Claim, run: Run) -> Finding:
    """No difference, within a margin of points."""
    found = run.comparison(claim["a"], claim["b"], claim["column"])
    if isinstance(found, str):
        return unmeasured(found)
    numbers = [100 * each for each in (found.difference, found.lo, found.hi)]
    return equivalence(*numbers, claim["stated"], claim["margin"], f"{found.n} items")


def ratio(claim: Claim, run: Run) -> Finding:
    """a over b, items resampled within their benchmark, the same for both; seeds add their spread (`tir.statistics`)."""
    pair = [run.scores(claim[name], claim["column"]) for name in "ab"]
    if any(isinstance(each, str) for each in pair):
        return unmeasured(next(each for each in pair if isinstance(each, str)))
    rng = run.random(claim["id"])
    tops, bottoms = (np.zeros(run.resamples) for _ in "ab")
    for name in pair[0]:
        items = [each[name].mean(axis=(0, 2)) for each in pair]
        drawn = rng.integers(0, len(items[0]), (run.resamples, len(items[0])))
        tops, bottoms = tops + items[0][drawn].mean(axis=1), bottoms + items[1][drawn].mean(axis=1)
    for total, each in zip((tops, bottoms), pair):
        scale, freedom = seed_spread(list(each.values()))
        total += len(each) * scale * stats.t.rvs(freedom, size=run.resamples, random_state=rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        measured = np.divide(*(sum(each.mean() for each in side.values()) for side in pair))
        lo, hi = _interval(tops / bottoms)
    n = f"{sum(each.shape[1] for each in pair[0].values())} items"
    return value(float(measured), lo, hi, claim["stated"], claim["tolerance"], n)


def wins(claim: Claim, run: Run) -> Finding:
    """On how many benchmarks a is at least as good as b: surely on those where it is clearly better, and surely not on
    those where it is clearly worse."""
    found = [run.comparison(claim["a"], claim["b"], each) for each in run.benchmarks]
    if any(isinstance(each, str) for each in found):
        return unmeasured(next(each for each in found if isinstance(each, str)))
    count, stated = sum(each.difference >= 0 for each in found), claim["stated"]
    won, lost = (sum(sign * each.difference > 0 and each.p_holm < 0.05 for each in found) for sign in (1, -1))
    verdict = HOLDS if won >= stated else FAILS if lost > len(found) - stated else UNCLEAR
    return Finding(verdict, count, n=f"{len(found)} benchmarks", why=f"{won} won and {lost} lost beyond chance")


def tool_calls(claim: Claim, run: Run) -> Finding:
    """Difference in tool calls written per question, benchmarks weighing equally."""
    pair = [run.calls(claim[name], claim["task"]) for name in "ab"]
    if any(isinstance(each, str) for each in pair):
        return unmeasured(next(each for each in pair if isinstance(each, str)))
    rng, draws, measured = run.random(claim["id"]), np.zeros(run.resamples), 0.0
    for name, first in pair[0].items():
        each = first - pair[1][name]
        draws += each[rng.integers(0, len(each), (run.resamples, len(each)))].mean(axis=1) / len(pair[0])
        measured += each.mean() / len(pair[0])
    return direction(float(measured), *_interval(draws), claim["stated"], n=f"{len(pair[0])} benchmarks")


def category_share(claim: Claim, run: Run) -> Finding:
    """Share of the fine-tuning trajectories in a tool category: a count of the whole file."""
    counts = Counter(text_category(row, str(path)) for path in run.inputs.data for row in read_rows(path))
    total = sum(counts.values())
    if not total:
        return unmeasured("no fine-tuning data was given")
    measured = counts[claim["category"]] / total
    return exact(measured, abs(measured - claim["stated"]) < 5e-5, f"{counts[claim['category']]} of {total}", f"{total} rows")


def bigram_ratio(claim: Claim, run: Run) -> Finding:
    """P(correct | first) over P(correct | second), items resampled with their trajectories."""
    found = run.trajectories(claim.get("task"))
    first, second = (tuple(claim[name]) for name in ("first", "second"))
    shares, draws = _bigram_draws(found, [first, second], [each.correct for each in found], run, claim["id"])
    if shares is None:
        return unmeasured(f"{' or '.join('→'.join(each) for each in (first, second))} does not occur")
    if shares[1] == 0:
        return Finding(UNCLEAR, why="the second bigram never ends well, so the ratio is infinite")
    lo, hi = _interval(np.minimum(draws[0] / np.maximum(draws[1], 1e-12), 1e6))
    return direction(shares[0] / shares[1], lo, hi, claim["stated"], null=1.0,
                     n=f"{len(found)} trajectories")


def bigram_every_metric(claim: Claim, run: Run) -> Finding:
    """The difference between two bigrams under each metric of the records; every interval must exclude 0.

    Shown is the metric that decides: one with the opposite order, else one whose interval holds 0, else the smallest.
    """
    found, under = run.trajectories(), []
    bigrams = [tuple(claim[name]) for name in ("first", "second")]
    for metric, values in run.trajectory_metrics().items():
        shares, draws = _bigram_draws(found, bigrams, values, run, claim["id"])
        if shares is None:
            return unmeasured("one of the bigrams does not occur")
        under.append((metric, direction(float(shares[0] - shares[1]), *_interval(draws[0] - draws[1]), 1.0)))
    metric, each = min(under, key=lambda pair: ((FAILS, UNCLEAR, HOLDS).index(pair[1].verdict), pair[1].measured))
    return replace(each, n=f"{len(found)} trajectories, {len(under)} metrics", why=f"least under {metric}: {each.why}",
                   stated_inside=None)


def offset_difference(claim: Claim, run: Run) -> Finding:
    """Median characters before the first tool: correct minus incorrect trajectories, items resampled."""
    found = [each for each in run.trajectories(claim.get("task")) if each.offset >= 0]
    offsets, correct = (np.array([getattr(each, name) for each in found]) for name in ("offset", "correct"))
    groups = [offsets[correct == wanted] for wanted in (True, False)]
    if min(map(len, groups)) < 5:
        return unmeasured(f"{len(groups[0])} correct and {len(groups[1])} incorrect trajectories use a tool")
    items = items_of(found)
    weights = _drawn_items(items, run, claim["id"])[:, items]
    draws = [weighted_median(each, weights[:, correct == wanted]) for each, wanted in zip(groups, (True, False))]
    return direction(float(np.median(groups[0]) - np.median(groups[1])), *_interval(draws[0] - draws[1]), claim["stated"],
                     n=f"{len(found)} trajectories")


def metric_change(claim: Claim, run: Run) -> Finding:
    """Last minus first value of a training metric, over seeds; the ends are means of a fifth of the steps."""
    curve = run.curve(claim["arm"], claim["metric"])
    if isinstance(curve, str):
        return unmeasured(curve)
    width = max(1, curve.shape[1] // 5) if claim["metric"] != "validation" else 1
    ends = [curve[:, :width].mean(axis=1), curve[:, -width:].mean(axis=1)]
    if claim.get("relative") and (ends[0] == 0).any():
        return Finding(UNCLEAR, why="a seed starts at 0, so its relative change is infinite")
    change = (ends[1] - ends[0]) / (np.abs(ends[0]) if claim.get("relative") else 1)
    return _over_seeds(change, claim["stated"])


def metric_growth(claim: Claim, run: Run) -> Finding:
    """Last value over the value half-way."""
    curve = run.curve(claim["arm"], claim["metric"])
    if isinstance(curve, str):
        return unmeasured(curve)
    middle = curve[:, curve.shape[1] // 2]
    if (middle == 0).any():
        return Finding(UNCLEAR, why="a seed's value half-way is 0, so the ratio is infinite")
    return _over_seeds(curve[:, -1] / middle, claim["stated"], null=1.0)


def slope_ratio(claim: Claim, run: Run) -> Finding:
    """Rise in the second half of a curve over that in the first."""
    curve = run.curve(claim["arm"], claim["metric"])
    if isinstance(curve, str):
        return unmeasured(curve)
    if curve.shape[1] < 3:
        return unmeasured("the curve has fewer than three points")
    middle = curve.shape[1] // 2
    first, second = curve[:, middle] - curve[:, 0], curve[:, -1] - curve[:, middle]
    if (first <= 0).any():
        return Finding(UNCLEAR, why="a seed does not rise at all in the first half")
    return _over_seeds(second / first, claim["stated"], null=1.0)


def metric_difference(claim: Claim, run: Run) -> Finding:
    """Difference of two arms' last value of a metric, seed by seed."""
    pair = [run.curve(claim[name], claim["metric"]) for name in "ab"]
    if any(isinstance(each, str) for each in pair):
        return unmeasured(next(each for each in pair if isinstance(each, str)))
    return _over_seeds(pair[0][:, -1] - pair[1][:, -1], claim["stated"])


def phi_on_qa(claim: Claim, run: Run) -> Finding:
    """Largest share of QA trajectories on which any term of phi fires, over all steps and seeds: counted, not sampled."""
    # Every value there is: a step without wrong QA trajectories, say, has no rate of theirs.
    rates = {name: run.logged(claim["arm"], name) for name in run.metric_names(claim["arm"])
             if name.startswith("aspo/fire/") and "/qa/" in name}
    if not rates:
        return unmeasured("no firing rates were logged")
    name, highest = max(((name, max(values)) for name, values in rates.items()), key=lambda pair: pair[1])
    return exact(highest, highest == 0.0, f"highest in one step: {name}", f"{len(rates)} rates")


def compute_share(claim: Claim, run: Run) -> Finding:
    """Trajectories sampled in RL over the published run's."""
    share = run.facts["trajectories"] / claim["published_trajectories"]
    lo, hi = claim["stated"]
    return exact(share, lo <= share <= hi, f"{run.facts['trajectories']:,} of {claim['published_trajectories']:,} trajectories")


def half_width(claim: Claim, run: Run) -> Finding:
    """Half the widest Wilson interval at n, in points."""
    lo, hi = wilson(claim["n"] / 2, claim["n"])
    measured = 50 * (hi - lo)
    wald = 100 * stats.norm.ppf(0.975) * 0.5 / claim["n"] ** 0.5
    return exact(measured, round(measured) == claim["stated"], f"Wilson at p = .5; Wald gives {wald:.1f}", f"n = {claim['n']}")


def best_epoch(claim: Claim, run: Run) -> Finding:
    """The epoch of lowest evaluation loss."""
    losses = run.sft("evaluations")
    if not losses:
        return unmeasured("no evaluation loss was logged")
    best = min(range(len(losses)), key=lambda each: losses[each][1]) + 1
    return exact(best, best == claim["stated"], ", ".join(f"{loss:.4f}" for _, loss in losses), "one run")


def losses_ordered(claim: Claim, run: Run) -> Finding:
    """Evaluation loss below the mean training loss of the same epoch, each time."""
    losses, evaluations = run.sft("losses"), run.sft("evaluations")
    if not evaluations:
        return unmeasured("no evaluation loss was logged")
    before, gaps = 0, []
    for step, loss in evaluations:
        gaps.append(loss - np.mean([each for at, each in losses if before < at <= step]))
        before = step
    return exact(float(max(gaps)), max(gaps) < 0, "largest gap, evaluation minus training", f"{len(gaps)} epochs")


def _over_seeds(values: np.ndarray, stated: float, null: float = 0.0) -> Finding:
    """A direction over seeds by Student's t; one seed has no interval and decides nothing."""
    measured = float(values.mean())
    if len(values) < 2:
        return Finding(UNCLEAR, measured, n="1 seed", why="one run has no interval over runs")
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return direction(measured, measured - reach, measured + reach, stated, null=null, n=f"{len(values)} seeds")


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % of resamples. Some may lack the quantity (a bigram that was not drawn); if more do than one tail holds, the
    ends are unknown, and NaN."""
    if np.isnan(draws).mean() > 0.025:
        return float("nan"), float("nan")
    lo, hi = np.nanquantile(draws, (0.025, 0.975))
    return float(lo), float(hi)


def _drawn_items(items: np.ndarray, run: Run, name: str) -> np.ndarray:
    """How often each item is drawn, shape (resamples, items); `items` numbers the trajectories' items."""
    count = items.max() + 1
    return run.random(name).multinomial(count, np.full(count, 1 / count), run.resamples)


def _bigram_draws(found: list[Behaviour], bigrams: list[tuple[str, ...]], values: list[float], run: Run, name: str):
    """Shares of success per bigram, and their bootstrap draws over items; None if one does not occur."""
    trials = np.array([[each.bigrams.count(bigram) for bigram in bigrams] for each in found], float).reshape(-1, len(bigrams))
    if not len(found) or not trials.sum(axis=0).all():
        return None, None
    hits = trials * np.array(values, float)[:, None]
    items = items_of(found)
    weights = _drawn_items(items, run, name)[:, items]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = ((weights @ hits) / (weights @ trials)).T
    return hits.sum(axis=0) / trials.sum(axis=0), draws


EVALUATORS: dict[str, Callable[[Claim, Run], Finding]] = {
    each.__name__: each for each in (
        difference, ratio, wins, tool_calls, category_share, bigram_ratio, bigram_every_metric, offset_difference,
        metric_change, metric_growth, slope_ratio, metric_difference, phi_on_qa, compute_share, half_width, best_epoch,
        losses_ordered)
} | {"equivalence": equal}
