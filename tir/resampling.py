"""What resampling makes of scores: bootstrap deviations, sign-flipped differences, and the spread between seeds.

`Part` holds one benchmark, `Column` one benchmark or an average of several. Both work on *contrasts*: rows of a matrix
over models, the identity (each model) followed by one row of +1 and -1 per compared pair. See `tir.statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

_BLOCK = 256  # replicates drawn at once: 256 x 1,319 items stay in cache


@dataclass
class Part:
    """One benchmark's share.

    Attributes:
        values: (items, contrasts), item means over seeds and samples.
        deviations: (resamples, contrasts), bootstrapped mean minus mean.
        flips: (resamples, pairs), means of item differences with random signs.
    """

    values: np.ndarray
    deviations: np.ndarray
    flips: np.ndarray

    @classmethod
    def of(cls, arrays: list[np.ndarray], contrasts: np.ndarray, resamples: int, rng: np.random.Generator) -> Part:
        """Resample one benchmark.

        Args:
            arrays: per model (seeds, items, samples).
            contrasts: (models + pairs, models).
        """
        values = np.stack([array.mean(axis=(0, 2)) for array in arrays], axis=1) @ contrasts.T
        items, models = len(values), len(arrays)
        centred, differences = values - values.mean(axis=0), values[:, models:]
        deviations, flips = np.empty((resamples, values.shape[1])), np.empty((resamples, differences.shape[1]))
        for start in range(0, resamples, _BLOCK):
            count = min(_BLOCK, resamples - start)
            drawn = rng.integers(0, items, (count, items - 1)) + items * np.arange(count)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
            deviations[start : start + count] = weights @ centred / (items - 1)
            if differences.shape[1]:
                raw = np.frombuffer(rng.bytes(count * (items // 8 + 1)), np.uint8).reshape(count, -1)
                signs = 2.0 * np.unpackbits(raw, axis=1)[:, :items] - 1
                flips[start : start + count] = signs @ differences / items
        return cls(values, deviations, flips)


class Column:
    """One benchmark, or an average that weighs several equally.

    Attributes:
        n: items.
        point, item_variance, seed_variance: per contrast; variances of the point.
        largest, unseen: per pair, the largest difference of one item, and how far one more such item would move the
            point; see `_unseen`.
        effective_items: items of one benchmark that would be as precise as the average, were all items alike.
        lo, hi: per contrast, the percentile interval over items and seeds together.
        flips: (resamples, pairs), the null distribution of the differences.
        resampled: what was resampled, in words.
    """

    def __init__(
        self,
        parts: list[Part],
        arrays: list[list[np.ndarray]],
        contrasts: np.ndarray,
        *,
        level: float,
        rng: np.random.Generator,
        random_benchmarks: bool,
    ):
        weight, models = 1 / len(parts), len(arrays)
        resamples = len(parts[0].deviations)
        means = np.stack([part.values.mean(axis=0) for part in parts])
        variances = np.stack([weight**2 * part.values.var(axis=0, ddof=1) / len(part.values) for part in parts])
        self.n = sum(len(part.values) for part in parts)
        self.point, self.item_variance = means.mean(axis=0), variances.sum(axis=0)
        scale, freedom = np.array([seed_spread(each) for each in arrays]).T
        self.seed_variance = contrasts**2 @ scale**2
        seeds = stats.t.rvs(freedom, size=(resamples, models), random_state=rng) * scale @ contrasts.T
        deviations = weight * sum(part.deviations for part in parts)
        self.resampled = "items"
        if random_benchmarks and len(parts) > 1:
            picks = rng.integers(0, len(parts), (len(parts) - 1, resamples))
            whole = np.stack([part.deviations + mean for part, mean in zip(parts, means, strict=True)])
            deviations = np.mean([whole[pick, np.arange(resamples)] for pick in picks], axis=0) - self.point
            self.item_variance = self.item_variance + weight * means.var(axis=0, ddof=1)
            self.resampled = "benchmarks, items"
        sizes = np.array([len(part.values) for part in parts])
        self.effective_items = 1 / (weight**2 / sizes).sum()
        self.largest, self.unseen = _unseen([part.values[:, models:] for part in parts], weight)
        gained, lost = rng.poisson(1, (2, resamples, len(self.unseen)))
        deviations[:, models:] += self.unseen * (gained - lost)
        stretch = small_sample_stretch(variances, sizes, level)
        edges = np.quantile(stretch * deviations + seeds, (0.5 - level / 2, 0.5 + level / 2), axis=0)
        self.lo, self.hi = self.point + edges
        self.flips = weight * sum(part.flips for part in parts) + seeds[:, models:]


def _unseen(differences: list[np.ndarray], weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Per pair, the largest difference of an item (1 where no item differs) and what one more such item would add.

    Resampling knows only the items it has: where none of n differs it finds no variance, and where one does it excludes
    that the next goes the other way. So the bootstrap of a difference draws from two items more, one gained and one
    lost: the adjustment of Bonett & Price (2012, J. Educ. Behav. Stat. 37:479), recommended for paired proportions by
    Fagerland, Lydersen & Laake (2014, Stat. Med. 33:2850). An item's number of draws is Poisson(1). The two matter
    while few items differ.

    Args:
        differences: per benchmark (items, pairs).
        weight: of each benchmark in the average.
    """
    largest = np.max([np.abs(each).max(axis=0, initial=0.0) for each in differences], axis=0)
    largest[largest == 0] = 1.0
    return largest, largest * weight / min(map(len, differences))


def seed_spread(arrays: list[np.ndarray]) -> tuple[float, int]:
    """Standard error of an average due to seeds beyond item noise, and its degrees of freedom; 0 for one seed.

    Seeds are crossed with items. The variance of seed means holds the noise of single answers too; what that
    contributes is estimated from the interaction of seeds and items and taken off.

    Args:
        arrays: per benchmark (seeds, items, samples), of one model.
    """
    seeds = len(arrays[0])
    if seeds == 1:
        return 0.0, 1
    tables = [array.mean(axis=2) for array in arrays]
    means = np.mean([table.mean(axis=1) for table in tables], axis=0)
    noise = sum(interaction(table) / (table.shape[1] * seeds) for table in tables) / len(tables) ** 2
    return float(np.sqrt(max(means.var(ddof=1) / seeds - noise, 0.0))), seeds - 1


def interaction(table: np.ndarray) -> float:
    """Variance of the interaction of seeds and items (with single-answer noise) in a table (seeds, items)."""
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((residual**2).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1)))


def variance_split(values: np.ndarray) -> dict[str, float]:
    """Variance components of one benchmark: between items, between seeds, within items (samples and interaction).

    Args:
        values: (seeds, items, samples). More items shrink the first, more seeds the second, more of either the third.
    """
    seeds, items, samples = values.shape
    table = values.mean(axis=2)
    if seeds > 1:
        within = interaction(table)
    else:
        within = float(values.var(axis=2, ddof=1).mean() / samples) if samples > 1 else 0.0
    return {
        "items": max(0.0, float(table.mean(axis=0).var(ddof=1) - within / seeds)),
        "seeds": max(0.0, float(table.mean(axis=1).var(ddof=1) - within / items)) if seeds > 1 else 0.0,
        "within": within,
    }


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians of values repeated by whole-number weights, shape (resamples,); NaN where all weights are 0.

    Args:
        values: (n,).
        weights: (resamples, n).
    """
    order = np.argsort(values)
    heard = weights[:, order].cumsum(axis=1)
    half = heard[:, -1:] / 2
    lower, upper = (values[order][np.argmax(passed, axis=1)] for passed in (heard >= half, heard > half))
    return np.where(half[:, 0] > 0, (lower + upper) / 2, np.nan)


def small_sample_stretch(variances: np.ndarray, sizes: np.ndarray, level: float) -> np.ndarray:
    """Student's quantile over the normal one at Satterthwaite's degrees of freedom (Hesterberg 2015, section 4).

    Args:
        variances: (benchmarks, contrasts), variance of each benchmark's share of the point.
        sizes: (benchmarks,), items.
    """
    spread = (variances**2 / (sizes[:, None] - 1)).sum(axis=0)
    freedom = np.divide(variances.sum(axis=0) ** 2, spread, out=np.full_like(spread, np.inf), where=spread > 0)
    return stats.t.ppf(0.5 + level / 2, freedom) / stats.norm.ppf(0.5 + level / 2)
