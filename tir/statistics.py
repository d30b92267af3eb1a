r"""Intervals and tests for scores of several models on the same benchmark items.

A model's scores on a benchmark are an array of shape (seeds, items, samples): seeds are separately trained models of
one arm, crossed with items; samples are repeated answers to one item, nested in it. Everything is a *contrast* of
models (one model, or the difference of two) and is treated by one bootstrap, so that intervals and tests cannot
disagree. Its levels, from the top:

- benchmarks are fixed strata by default (the claim is about these benchmarks); `random_benchmarks` resamples them too;
- items are resampled within their benchmark, each with all its samples and seeds, and the same items for every model
  (paired). Drawing n - 1 of n items makes the bootstrap variance unbiased (Rao & Wu 1988);
- samples travel with their item: drawing them again within a drawn item would count their noise twice;
- seeds add what the models of an arm differ by *beyond* item noise, drawn from Student's t with seeds - 1 degrees of
  freedom: three seeds cannot be bootstrapped honestly. With one seed there is no such part, and `method` says so.

A score of one sample and one seed that is right or wrong gets Wilson's interval, and so does whatever is the same for
every item: no variance is seen there, yet it is not certain. For the same reason the bootstrap of a paired difference
counts one more item gained and one more lost (`tir.resampling`), and the smallest detectable difference is at least
what would show if all items that differ went one way. Paired differences are tested by flipping the signs of item
differences (all samples and seeds of an item together), with Holm's correction. Scores are fractions in [0, 1].
Sources: paper section 7 (statistical power); Miller, arXiv 2411.00640 (paired differences, power).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tir.errors import DataError
from tir.resampling import Column, Part

Scores = Mapping[str, Mapping[str, np.ndarray]]  # model label -> benchmark -> (seeds, items, samples)


@dataclass(frozen=True)
class Estimate:
    """A score with its interval; `n` counts items, `seed_sd` is the standard deviation of seed means (None for one)."""

    score: float
    lo: float
    hi: float
    n: int
    method: str
    seeds: int
    samples: int
    seed_sd: float | None


@dataclass(frozen=True)
class Comparison:
    """Model `a` minus model `b` on the same items.

    Attributes:
        difference, lo, hi: paired difference and its interval, as fractions.
        p, p_holm: sign-flip p-value, and after Holm's correction: over all pairs of one macro average, or over all
            pairs and benchmarks for single cells.
        minimum_detectable: smallest true difference found with the wanted power at this n and these seeds.
        items_needed: items at which the observed difference would be found; None if no number suffices (the seeds
            differ too much, or there is no difference).
        verdict: the outcome in words.
    """

    a: str
    b: str
    column: str
    difference: float
    lo: float
    hi: float
    n: int
    p: float
    p_holm: float
    minimum_detectable: float
    items_needed: int | None
    method: str
    verdict: str


@dataclass(frozen=True)
class Study:
    """All estimates, by (model label, column), and all comparisons; columns are benchmarks and macro averages."""

    estimates: dict[tuple[str, str], Estimate]
    comparisons: list[Comparison]


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    lo, hi = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return float(lo), float(hi)


def minimum_detectable(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test at `level` finds with probability `power`."""
    return float(standard_error * (stats.norm.ppf(0.5 + level / 2) + stats.norm.ppf(power)))


def study(
    scores: Scores,
    *,
    macros: Mapping[str, Sequence[str]] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    level: float = 0.95,
    power: float = 0.8,
    resamples: int = 10_000,
    seed: int = 0,
    random_benchmarks: bool = False,
) -> Study:
    """Estimate every cell and macro average, and compare pairs of models on them.

    Args:
        scores: per model label and benchmark an array (seeds, items, samples); items of a benchmark in the same order
            for every model.
        macros: name -> benchmarks averaged with equal weight.
        pairs: (a, b) labels to compare, a minus b, on every benchmark and macro.
        resamples: bootstrap replicates and sign flips.
        random_benchmarks: resample benchmarks too, for a claim about benchmarks like these.

    Raises `DataError` if shapes do not fit.
    """
    labels, benchmarks = list(scores), list(next(iter(scores.values())))
    _check(scores, benchmarks)
    contrasts = _contrasts(labels, pairs)
    rng = np.random.default_rng(seed)
    parts = {name: Part.of([scores[label][name] for label in labels], contrasts, resamples, rng) for name in benchmarks}
    columns = {name: [name] for name in benchmarks} | {name: list(members) for name, members in (macros or {}).items()}
    estimates, tests = {}, []
    for column, members in columns.items():
        arrays = {label: [scores[label][name] for name in members] for label in labels}
        drawn = Column(
            [parts[name] for name in members],
            list(arrays.values()),
            contrasts,
            level=level,
            rng=rng,
            random_benchmarks=random_benchmarks,
        )
        for row, label in enumerate(labels):
            estimates[label, column] = _estimate(drawn, row, arrays[label], level)
        for position, (a, b) in enumerate(pairs):
            seeds = max(len(arrays[a][0]), len(arrays[b][0]))
            tests.append(
                {
                    "a": a,
                    "b": b,
                    "column": column,
                    "family": column if column in (macros or {}) else "cells",
                    **_test(drawn, len(labels) + position, position, seeds, level, power),
                }
            )
    return Study(estimates, _holm(tests, 1 - level))


def clustered_proportion(
    successes: np.ndarray, trials: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of sum(successes) / sum(trials) when occurrences within a cluster (an item) are not independent.

    All of them, or none, show no variance to a bootstrap: that gets Wilson's interval with the clusters as its n.

    Args:
        successes, trials: per cluster, shape (clusters,); clusters with 0 trials count as clusters.
    """
    share, clusters = np.sum(successes) / np.sum(trials), int(np.count_nonzero(trials))
    if share in (0, 1):
        return wilson(share * clusters, clusters, level)
    draws = _ratio_draws(successes, trials, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def clustered_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the difference of two such proportions over the same clusters, resampled together.

    Where one of them is 0 or 1, the two intervals are combined instead (Newcombe 1998, Stat. Med. 17:873, method 10).
    """
    shares = [np.sum(successes) / np.sum(trials) for successes, trials in (first, second)]
    if {0, 1} & set(shares):
        (low, high), (other_low, other_high) = (
            clustered_proportion(*each, level=level, resamples=resamples, seed=seed) for each in (first, second)
        )
        difference = shares[0] - shares[1]
        below = math.hypot(shares[0] - low, other_high - shares[1])
        above = math.hypot(high - shares[0], shares[1] - other_low)
        return float(difference - below), float(difference + above)
    draws = _ratio_draws(*first, resamples, seed) - _ratio_draws(*second, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def _estimate(column: Column, row: int, arrays: list[np.ndarray], level: float) -> Estimate:
    seeds, samples = len(arrays[0]), arrays[0].shape[2]
    values = np.concatenate([array.ravel() for array in arrays])
    proportion = np.isin(values, (0, 1)).all() and len(arrays) == seeds == samples == 1
    score = float(column.point[row])
    if proportion or values.min() == values.max():  # a constant has no bootstrap variance, yet is not certain
        lo, hi = wilson(score * column.effective_items, column.effective_items, level)
        method = "wilson"
    else:
        lo, hi = np.clip((column.lo[row], column.hi[row]), 0, 1)
        method = f"bootstrap ({column.resampled}{', seeds' if seeds > 1 else ''})"
    means = np.mean([array.mean(axis=(1, 2)) for array in arrays], axis=0)
    seed_sd = float(means.std(ddof=1)) if seeds > 1 else None
    return Estimate(score, float(lo), float(hi), column.n, method, seeds, samples, seed_sd)


def _test(column: Column, contrast: int, position: int, seeds: int, level: float, power: float) -> dict:
    difference, null = float(column.point[contrast]), np.abs(column.flips[:, position])
    item_variance, seed_variance = float(column.item_variance[contrast]), float(column.seed_variance[contrast])
    lo, hi = float(column.lo[contrast]), float(column.hi[contrast])
    reach = minimum_detectable(1.0, level, power)
    room = difference**2 - reach**2 * seed_variance
    needed = math.ceil(column.n * item_variance * reach**2 / room) if room > 0 and item_variance > 0 else None
    # Half the interval is the test's reach as it really is, heavy tails of few seeds included.
    spread = math.sqrt(item_variance + 2 * column.unseen[position] ** 2 + seed_variance)
    detectable = (hi - lo) / 2 + stats.norm.ppf(power) * spread
    # A difference made by items that all go one way has a variance of its own, whatever was seen so far.
    one_way = column.largest[position] * reach**2 / (column.effective_items + reach**2)
    training_noise = "seeds" if seeds > 1 else "one seed per model: training noise is not included"
    return {
        "difference": difference,
        "lo": lo,
        "hi": hi,
        "n": column.n,
        "p": (1 + int((null >= abs(difference) - 1e-12).sum())) / (1 + len(null)),
        "minimum_detectable": float(max(detectable, one_way)),
        "items_needed": needed,
        "method": f"paired bootstrap (Bonett-Price) and sign flips ({column.resampled}; {training_noise})",
    }


def _holm(tests: list[dict], alpha: float) -> list[Comparison]:
    corrected: dict[int, float] = {}
    for family in dict.fromkeys(test["family"] for test in tests):
        members = [position for position, test in enumerate(tests) if test["family"] == family]
        adjusted = multipletests([tests[position]["p"] for position in members], method="holm")[1]
        corrected |= dict(zip(members, map(float, adjusted), strict=True))
    found = []
    for position, test in enumerate(tests):
        fields = {name: value for name, value in test.items() if name != "family"}
        found.append(
            Comparison(**fields, p_holm=corrected[position], verdict=_verdict(test, corrected[position], alpha))
        )
    return found


def _verdict(test: dict, p_holm: float, alpha: float) -> str:
    above, below = (test["a"], test["b"]) if test["difference"] > 0 else (test["b"], test["a"])
    if p_holm < alpha:
        return f"{above} is better than {below}"
    if test["p"] < alpha:
        return "not distinguishable once corrected for the number of comparisons"
    return "not distinguishable at this n"


def _contrasts(labels: list[str], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """(models + pairs, models): the identity, then one row of +1 and -1 per pair."""
    matrix = np.zeros((len(labels) + len(pairs), len(labels)))
    matrix[: len(labels)] = np.eye(len(labels))
    for row, (a, b) in enumerate(pairs, len(labels)):
        unknown = {a, b} - set(labels)
        if unknown or a == b:
            raise DataError(
                "cannot compare",
                where=f"{a} with {b}",
                why=f"unknown or equal labels {sorted(unknown) or a}",
                remedy=f"name two of {', '.join(labels)}",
            )
        matrix[row, labels.index(a)], matrix[row, labels.index(b)] = 1, -1
    return matrix


def _ratio_draws(successes: np.ndarray, trials: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    weights = np.random.default_rng(seed).multinomial(len(trials), np.full(len(trials), 1 / len(trials)), resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ successes) / (weights @ trials)


def _check(scores: Scores, benchmarks: list[str]) -> None:
    for label, row in scores.items():
        if set(row) != set(benchmarks):
            raise DataError(
                "models were not scored on the same benchmarks",
                where=label,
                why=f"it has {', '.join(row)}; the first model has {', '.join(benchmarks)}",
            )
        seeds = {array.shape[0] for array in row.values()}
        if len(seeds) != 1:
            raise DataError(
                "a model needs the same seeds on every benchmark", where=label, why=f"seeds {sorted(seeds)}"
            )
    for name in benchmarks:
        sizes = {row[name].shape[1] for row in scores.values()}
        if len(sizes) != 1 or min(sizes) < 2:
            raise DataError(
                "a benchmark needs the same two or more items for every model",
                where=name,
                why=f"items {sorted(sizes)}",
                remedy="score every model on the same file",
            )
