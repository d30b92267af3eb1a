r"""Intervals and tests for scores of several models on the same benchmark items.

A model's scores on a benchmark are an array of shape (seeds, items, samples): seeds are separately trained models of one
arm, crossed with items; samples are repeated answers to one item, nested in it. Everything is a *contrast* of models (one
model, or the difference of two) and is treated by one bootstrap, so that intervals and tests cannot disagree:

- benchmarks are fixed strata by default (the claim is about these benchmarks); `random_benchmarks` resamples them too;
- items are resampled within their benchmark, each with all its samples and seeds, and the same items for every model
  (paired). Resampling n - 1 of n items makes the bootstrap variance unbiased (Rao & Wu 1988); samples within a drawn item
  are not resampled again, which would count their noise twice;
- seeds add what the models of an arm differ by *beyond* item noise, drawn from Student's t with seeds - 1 degrees of
  freedom: three seeds cannot be bootstrapped honestly. An arm with one seed has no such part, and its method says so.

A single score of one sample and one seed that is right or wrong gets Wilson's interval. Paired differences are tested by
flipping the signs of item differences (all samples and seeds of an item together), with Holm's correction. Scores are
fractions in [0, 1]. Sources: paper section 7 (statistical power), UPSTREAM section 6 items 14 and 19; Miller,
arXiv 2411.00640 (paired differences, power).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tir.errors import DataError

Scores = Mapping[str, Mapping[str, np.ndarray]]  # model label -> benchmark -> (seeds, items, samples)

_BLOCK = 256  # bootstrap replicates drawn at once: 256 x 1,319 items stay in cache


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
        p, p_holm: sign-flip p-value, and after Holm's correction over the comparisons of the same kind (macro or cell).
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


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    lo, hi = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return float(lo), float(hi)


def minimum_detectable(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test at `level` finds with probability `power`."""
    return float(standard_error * (stats.norm.ppf(0.5 + level / 2) + stats.norm.ppf(power)))


def study(scores: Scores, *, macros: Mapping[str, Sequence[str]] | None = None, pairs: Sequence[tuple[str, str]] = (),
          level: float = 0.95, power: float = 0.8, resamples: int = 10_000, seed: int = 0,
          random_benchmarks: bool = False) -> Study:
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
    parts = {name: _Part.of([scores[label][name] for label in labels], contrasts, len(labels), resamples, rng)
             for name in benchmarks}
    columns = {name: [name] for name in benchmarks} | {name: list(members) for name, members in (macros or {}).items()}
    estimates, tests = {}, []
    for column, members in columns.items():
        drawn = _Column([parts[name] for name in members], [[scores[label][name] for name in members] for label in labels],
                        contrasts, len(labels), level, resamples, rng, random_benchmarks and len(members) > 1)
        for row, label in enumerate(labels):
            estimates[label, column] = _estimate(drawn, row, [scores[label][name] for name in members], level)
        for position, (a, b) in enumerate(pairs):
            tests.append(_test(drawn, len(labels) + position, position, a, b, column, level, power, len(members) > 1))
    return Study(estimates, _holm(tests, 1 - level))


def clustered_proportion(successes: np.ndarray, trials: np.ndarray, *, level: float = 0.95, resamples: int = 10_000,
                         seed: int = 0) -> tuple[float, float]:
    """Interval of sum(successes) / sum(trials) when occurrences within a cluster (a trace) are not independent.

    Args:
        successes, trials: per cluster, shape (clusters,); clusters with 0 trials count as clusters.
    """
    draws = _ratio_draws(successes, trials, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def clustered_difference(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], *,
                         level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Interval of the difference of two such proportions over the same clusters, resampled together."""
    draws = _ratio_draws(*first, resamples, seed) - _ratio_draws(*second, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def variance_split(values: np.ndarray) -> dict[str, float]:
    """Variance components of one benchmark: between items, between seeds, within items (samples and interaction).

    Args:
        values: (seeds, items, samples). More items shrink the first, more seeds the second, more of either the third.
    """
    seeds, items, samples = values.shape
    table = values.mean(axis=2)
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    crossed = (residual**2).sum() / ((seeds - 1) * (items - 1)) if seeds > 1 else 0.0
    noise = values.var(axis=2, ddof=1).mean() if samples > 1 else 0.0
    within = crossed if seeds > 1 else noise / samples
    return {
        "items": max(0.0, float(table.mean(axis=0).var(ddof=1) - within / seeds)),
        "seeds": max(0.0, float(table.mean(axis=1).var(ddof=1) - within / items)) if seeds > 1 else 0.0,
        "within": float(within),
    }


@dataclass
class _Part:
    """One benchmark's share: item values of every contrast and what resampling makes of their means.

    values: (items, contrasts); deviations: (resamples, contrasts), bootstrap mean minus mean; flips: (resamples, pairs),
    means of item differences with random signs.
    """

    values: np.ndarray
    deviations: np.ndarray
    flips: np.ndarray

    @classmethod
    def of(cls, arrays: list[np.ndarray], contrasts: np.ndarray, models: int, resamples: int, rng) -> _Part:
        values = np.stack([array.mean(axis=(0, 2)) for array in arrays], axis=1) @ contrasts.T
        items = len(values)
        centred, differences = values - values.mean(axis=0), values[:, models:]
        deviations, flips = np.empty((resamples, values.shape[1])), np.empty((resamples, differences.shape[1]))
        for start in range(0, resamples, _BLOCK):
            count = min(_BLOCK, resamples - start)
            drawn = rng.integers(0, items, (count, items - 1)) + items * np.arange(count)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
            deviations[start : start + count] = weights @ centred / (items - 1)
            if differences.shape[1]:
                bits = np.unpackbits(np.frombuffer(rng.bytes(count * (items // 8 + 1)), np.uint8).reshape(count, -1), axis=1)
                flips[start : start + count] = (2.0 * bits[:, :items] - 1) @ differences / items
        return cls(values, deviations, flips)


class _Column:
    """One benchmark or macro average: point, resampled deviations and standard error of every contrast."""

    def __init__(self, parts: list[_Part], arrays: list[list[np.ndarray]], contrasts: np.ndarray, models: int,
                 level: float, resamples: int, rng, random_benchmarks: bool):
        weight = 1 / len(parts)
        self.n = sum(len(part.values) for part in parts)
        means = np.stack([part.values.mean(axis=0) for part in parts])
        self.point = means.mean(axis=0)
        variances = np.stack([weight**2 * part.values.var(axis=0, ddof=1) / len(part.values) for part in parts])
        self.item_variance = variances.sum(axis=0)
        seed_scale, freedom = np.array([_seed_spread(each) for each in arrays]).T
        self.seed_variance = contrasts**2 @ seed_scale**2
        seeds = stats.t.rvs(np.maximum(freedom, 1), size=(resamples, len(arrays)), random_state=rng) * seed_scale
        self.seed_deviations = seeds @ contrasts.T
        stretch = _small_sample_stretch(variances, [len(part.values) for part in parts], level)
        if random_benchmarks:
            picks = rng.integers(0, len(parts), (resamples, len(parts) - 1))
            whole = np.stack([part.deviations + mean for part, mean in zip(parts, means, strict=True)])
            deviations = sum(whole[pick, np.arange(resamples)] for pick in picks.T) / (len(parts) - 1) - self.point
            self.item_variance = self.item_variance + means.var(axis=0, ddof=1) * weight
        else:
            deviations = weight * sum(part.deviations for part in parts)
        self.deviations = stretch * deviations + self.seed_deviations
        self.flips = weight * sum(part.flips for part in parts) + self.seed_deviations[:, models:]
        self.seeds = np.array([len(each[0]) for each in arrays])
        self.method = ("benchmarks, items" if random_benchmarks else "items") if len(parts) > 1 else "items"

    def interval(self, contrast: int, level: float) -> tuple[float, float]:
        edges = np.quantile(self.deviations[:, contrast], (0.5 - level / 2, 0.5 + level / 2))
        return tuple(self.point[contrast] + edges)


def _estimate(column: _Column, row: int, arrays: list[np.ndarray], level: float) -> Estimate:
    seeds, samples = len(arrays[0]), arrays[0].shape[2]
    values = np.concatenate([array.ravel() for array in arrays])
    binary, single = np.isin(values, (0, 1)).all(), len(arrays) == 1
    score = float(column.point[row])
    if single and (seeds == samples == 1 and binary or values.min() == values.max()):
        lo, hi = wilson(score * column.n, column.n, level)  # a constant has no bootstrap variance, yet is not certain
        method = "wilson"
    else:
        lo, hi = np.clip(column.interval(row, level), 0, 1)
        method = f"bootstrap ({column.method}{', seeds' if seeds > 1 else ''})"
    means = np.mean([array.mean(axis=(1, 2)) for array in arrays], axis=0)
    seed_sd = float(means.std(ddof=1)) if seeds > 1 else None
    return Estimate(score, float(lo), float(hi), column.n, method, seeds, samples, seed_sd)


def _test(column: _Column, contrast: int, position: int, a: str, b: str, name: str, level: float, power: float,
          macro: bool) -> dict:
    difference, null = column.point[contrast], np.abs(column.flips[:, position])
    item_variance, seed_variance = column.item_variance[contrast], column.seed_variance[contrast]
    lo, hi = column.interval(contrast, level)
    hits = int((null >= abs(difference) - 1e-12).sum())
    reach = minimum_detectable(1.0, level, power)
    room = difference**2 - reach**2 * seed_variance
    needed = int(np.ceil(column.n * item_variance * reach**2 / room)) if room > 0 else None
    seeds = "sign flips of items" + (", seeds" if column.seeds.max() > 1 else "; one seed per model, training noise not included")
    return dict(a=a, b=b, column=name, difference=float(difference), lo=float(lo), hi=float(hi), n=column.n,
                p=(1 + hits) / (1 + len(null)), minimum_detectable=reach * float(np.sqrt(item_variance + seed_variance)),
                items_needed=needed, method=seeds, macro=macro)


def _holm(tests: list[dict], alpha: float) -> list[Comparison]:
    adjusted: dict[int, float] = {}
    for kind in (True, False):
        family = [position for position, test in enumerate(tests) if test["macro"] is kind]
        if family:
            corrected = multipletests([tests[position]["p"] for position in family], method="holm")[1]
            adjusted |= dict(zip(family, map(float, corrected), strict=True))
    found = []
    for position, test in enumerate(tests):
        fields = {name: value for name, value in test.items() if name != "macro"}
        found.append(Comparison(**fields, p_holm=adjusted[position], verdict=_verdict(test, adjusted[position], alpha)))
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
            raise DataError("cannot compare", where=f"{a} with {b}", why=f"unknown or equal labels {sorted(unknown) or a}",
                            remedy=f"name two of {', '.join(labels)}")
        matrix[row, labels.index(a)], matrix[row, labels.index(b)] = 1, -1
    return matrix


def _seed_spread(arrays: list[np.ndarray]) -> tuple[float, int]:
    """Standard error of a macro average that is due to seeds beyond item noise, and its degrees of freedom."""
    seeds = len(arrays[0])
    if seeds == 1:
        return 0.0, 1
    tables = [array.mean(axis=2) for array in arrays]
    means = np.mean([table.mean(axis=1) for table in tables], axis=0)
    noise = 0.0
    for table in tables:
        residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        noise += (residual**2).sum() / ((seeds - 1) * (table.shape[1] - 1)) / (table.shape[1] * seeds)
    excess = means.var(ddof=1) / seeds - noise / len(arrays) ** 2
    return float(np.sqrt(max(excess, 0.0))), seeds - 1


def _small_sample_stretch(variances: np.ndarray, sizes: list[int], level: float) -> np.ndarray:
    """Student's quantile over the normal one, at Satterthwaite's degrees of freedom (Hesterberg 2015, section 4)."""
    spread = (variances**2 / (np.array(sizes)[:, None] - 1)).sum(axis=0)
    freedom = np.divide(variances.sum(axis=0) ** 2, spread, out=np.full_like(spread, np.inf), where=spread > 0)
    return stats.t.ppf(0.5 + level / 2, freedom) / stats.norm.ppf(0.5 + level / 2)


def _ratio_draws(successes: np.ndarray, trials: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    weights = np.random.default_rng(seed).multinomial(len(trials), np.full(len(trials), 1 / len(trials)), resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ successes) / (weights @ trials)


def _check(scores: Scores, benchmarks: list[str]) -> None:
    for label, row in scores.items():
        if set(row) != set(benchmarks):
            raise DataError("models were not scored on the same benchmarks", where=label,
                            why=f"it has {', '.join(row)}; the first model has {', '.join(benchmarks)}")
        seeds = {array.shape[0] for array in row.values()}
        if len(seeds) != 1:
            raise DataError("a model needs the same seeds on every benchmark", where=label, why=f"seeds {sorted(seeds)}")
    for name in benchmarks:
        sizes = {row[name].shape[1] for row in scores.values()}
        if len(sizes) != 1 or min(sizes) < 2:
            raise DataError("a benchmark needs the same two or more items for every model", where=name,
                            why=f"items {sorted(sizes)}", remedy="score every model on the same file")
