"""Claims about trajectories: bigrams, first tools, calls, form, and the tools of the fine-tuning data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import FAILS, HOLDS, UNCLEAR, Finding, NotMeasured, direction, exact, value
from tir.analysis.clusters import clustered_proportion, weighted_median
from tir.analysis.contrast import contrast
from tir.analysis.segments import segments_of
from tir.analysis.statistics import wilson
from tir.analysis.tables.inputs import read_rows
from tir.analysis.tables.trajectories import Behaviour, items_of, occurrences, text_category
from tir.rollout.protocol import extract_answer, format_fault

Claim = Mapping[str, Any]


def tool_calls(claim: Claim, run: Run) -> Finding:
    """Difference in tool calls written per question, averaged over benchmarks with equal weight."""
    pair = [run.calls(claim[name], claim["task"]) for name in "ab"]
    found = contrast([calls - pair[1][name] for name, calls in pair[0].items()], paired=True)
    return direction(found.value, *found.interval(), claim["stated"], n=f"{found.n} items")


def category_share(claim: Claim, run: Run) -> Finding:
    """Share of the fine-tuning trajectories in a tool category, counted over the whole file."""
    counts = Counter(text_category(row, str(path)) for path in run.data(".json", ".jsonl") for row in read_rows(path))
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
    with np.errstate(invalid="ignore", divide="ignore"):
        lo, hi = _interval(draws[0] / draws[1])
    n = f"{len(trajectories)} trajectories"
    found = direction(shares[0] / shares[1], lo, min(hi, 1e9), claim["stated"], null=1.0, n=n)
    return found if hi < 1e9 else replace(found, hi=None)


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


def bigram_share(claim: Claim, run: Run) -> Finding:
    """P(correct | bigram), with the items as clusters; in the trace analysis, or for `models` on a `benchmark`."""
    bigram = tuple(claim["bigram"])
    models = claim.get("models")
    trajectories = run.evaluated(models, claim["benchmark"]) if models else run.trajectories(claim.get("task"))
    successes, trials = occurrences(trajectories, bigram)
    if not trials.sum():
        raise NotMeasured(f"{'→'.join(bigram)} does not occur")
    interval = clustered_proportion(successes, trials)
    measured = float(successes.sum() / trials.sum())
    return value(measured, *interval, claim["stated"], claim["tolerance"], f"{int(trials.sum())} occurrences")


def well_formed_share(claim: Claim, run: Run) -> Finding:
    """Share of the trajectories of `models` on a `benchmark` that call a tool, answer, and keep the format."""
    traces = run.evaluated_traces(claim["models"], claim["benchmark"])
    good = sum(
        trace["n_python"] + trace["n_search"] > 0
        and extract_answer(segments_of(trace)) is not None
        and format_fault(segments_of(trace)) is None
        for trace in traces
    )
    interval = wilson(good, len(traces))
    return value(good / len(traces), *interval, claim["stated"], claim["tolerance"], f"{len(traces)} trajectories")


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of resamples. NaN resamples (a bigram was not drawn) are ignored up to 2.5 %, the size of one
    tail; above that, or if all resamples are equal, the interval is NaN."""
    lo, hi = np.nanquantile(draws, (0.025, 0.975), method="nearest") if np.isfinite(draws).any() else (0.0, 0.0)
    return (float(lo), float(hi)) if lo < hi and np.isnan(draws).mean() <= 0.025 else (math.nan, math.nan)


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
