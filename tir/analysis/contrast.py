"""A score, or the difference of two, with its standard error over items and over training runs, in closed form.

The answers of an arm to one benchmark are a table of seeds by items: every trained model (seed) answers every item. Two
arms are compared seed by seed and item by item, so a contrast is such a table too, of differences. It says something
about the arm if it would come out alike with other items and with other training runs. Its variance is therefore

    V = K + s^2 / S

S is the number of seeds, s^2 the variance of the means of the seeds, K the variance that resampling items gives, less
the noise of single answers, which s^2 / S already has. One seed has no s^2, and its V is that of the items alone.

The interval uses Student's t with Satterthwaite's degrees of freedom,

    (K + c s^2 / S)^2 / (K^2 / f + (c s^2 / S)^2 / (S - 1)),   c = 1 + 3 / (S - 1)

f are those of the items. Satterthwaite has c = 1. But a variance of three seeds is often too small by chance. It then
makes the interval too narrow twice: through V, and through degrees of freedom that are too many. With c = 1 an interval
of three seeds covers 92 % if seeds dominate, with the c above 94 to 96 % (`make bench-coverage`).

Few items differ between two similar models, and none that differs is not a proof that none would. So one gained and
one lost item, each in a random benchmark, are added to the differences that were seen (Bonett & Price 2012, J. Educ.
Behav. Stat. 37:479, recommended by Fagerland, Lydersen & Laake 2014, Stat. Med. 33:2850). Where few 0/1 scores
differ, the p-value then lies about between that of McNemar's exact test and its mid-p value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tir.analysis.numbers import significant

NORMAL = 1e12  # degrees of freedom at which Student's t is the normal distribution


@dataclass(frozen=True)
class Contrast:
    """A mean over benchmarks with equal weights.

    Attributes:
        value: the mean, as a fraction.
        items, training: the parts of its variance due to items (with the noise of single answers) and to training runs.
        variance, freedom: its variance and degrees of freedom.
        n: number of items; `effective_items`: size of one benchmark with the same precision, at equal variance.
        seeds: number of seeds.
        typical: size of an item's difference, the root mean square over the items that differ; 1 if none does.
    """

    value: float
    items: float
    training: float
    variance: float
    freedom: float
    n: int
    effective_items: float
    seeds: int
    typical: float

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The values that a two-sided test at 1 - `level` does not reject."""
        half = self._quantile(level) * self.error
        return self.value - half, self.value + half

    def p(self) -> float:
        """Two-sided p-value of the value 0; below 1 - level exactly if `interval(level)` excludes 0."""
        if not self.variance:
            return float(self.value == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.value) / self.error))

    def detectable(self, level: float, power: float) -> float:
        """Smallest true value that a two-sided test at 1 - `level` finds with probability `power`.

        At least the value at which enough items differ, if all of them favour the same model: few items that differ
        make the standard error small, but a true difference is not smaller than the share of items that differ.
        """
        shift = self._shift(level, power)
        one_way = self.typical * shift**2 / (self.effective_items + shift**2)
        return max(shift * self.error, one_way)

    def items_needed(self, level: float, power: float) -> int | None:
        """Items needed to find the observed value, if these seeds stay; None if no number suffices."""
        shift = self._shift(level, power)
        room = self.value**2 - shift**2 * self.training
        return math.ceil(self.n * self.items * shift**2 / room) if room > 0 and self.items > 0 else None

    def _quantile(self, level: float) -> float:
        return float(special.stdtrit(self.freedom, 0.5 + level / 2))

    def _shift(self, level: float, power: float) -> float:
        """The value found with probability `power`, in standard errors: the shift of a noncentral t distribution."""
        return float(special.nctdtrinc(self.freedom, 1 - power, self._quantile(level)))


def contrast(tables: Sequence[np.ndarray], *, paired: bool = False) -> Contrast:
    """The mean of one or several benchmarks.

    Args:
        tables: per benchmark (seeds, items), means over samples; differences of two models if `paired`.
        paired: add one gained and one lost item (see above).
    """
    weight, seeds = 1 / len(tables), len(tables[0])
    sizes = np.array([table.shape[1] for table in tables])
    by_benchmark = np.array([weight**2 * table.mean(axis=0).var(ddof=1) / table.shape[1] for table in tables])
    items, training, noise = float(by_benchmark.sum()), 0.0, 0.0
    if seeds > 1:
        noise = sum(weight**2 * interaction(table) / table.size for table in tables)
        training = float(np.mean([table.mean(axis=1) for table in tables], axis=0).var(ddof=1)) / seeds
    freedom = satterthwaite([(each, size - 1) for each, size in zip(by_benchmark, sizes, strict=True)])
    typical, pseudo = 1.0, 0.0
    if paired:
        differences = np.concatenate([table.mean(axis=0) for table in tables])
        differing = differences[differences != 0]
        typical = float(np.sqrt(np.mean(differing**2))) if differing.size else 1.0
        pseudo = added_items(typical, sizes)
    within = max(items - noise, 0.0)
    return Contrast(
        value=float(np.mean([table.mean() for table in tables])),
        items=items,
        training=max(training - noise, 0.0),
        variance=within + pseudo + training,
        freedom=satterthwaite([(within, freedom), (pseudo, NORMAL), of_seeds(training, seeds)]),
        n=int(sizes.sum()),
        effective_items=float(1 / (weight**2 / sizes).sum()),
        seeds=seeds,
        typical=typical,
    )


def added_items(size: float, sizes: np.ndarray) -> float:
    """Variance of a mean over benchmarks due to one gained and one lost item, each in a random benchmark.

    A benchmark with few items has as much weight in the mean as a large one. So it counts as much here, too, where no
    item of it happens to differ.

    Args:
        size: difference of such an item.
        sizes: number of items of each benchmark.
    """
    return 2 * (size / len(sizes)) ** 2 * float(np.mean(1 / sizes**2.0))


def of_seeds(variance: float, seeds: int) -> tuple[float, int]:
    """The part of the seeds in Satterthwaite's formula: their variance, raised by the factor c, and its degrees of
    freedom."""
    freedom = max(seeds - 1, 1)  # the variance of one seed is 0
    return variance * (1 + 3 / freedom), freedom


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, given as (variance, degrees of freedom)."""
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    total = sum(variance for variance, _ in parts)
    return min(total**2 / spread, NORMAL) if spread else NORMAL


def all_equal(values: np.ndarray) -> bool:
    """Whether values differ by no more than the rounding of their computation."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def interaction(table: np.ndarray) -> float:
    """Variance of the seed-by-item interaction, including single-answer noise, in a table (seeds, items)."""
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((residual**2).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1)))


def variance_split(values: np.ndarray) -> dict[str, float]:
    """Variance components of one benchmark: between items, between seeds, within items (samples and interaction).

    More items reduce the first component's effect on a score, more seeds the second's, more of either the third's.

    Args:
        values: (seeds, items, samples).
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


def distribution(freedom: float) -> str:
    """Name of Student's distribution in a table: `t(4.2)`, or `normal` from 1,000 degrees of freedom."""
    return f"t({significant(freedom, 4)})" if freedom < 1000 else "normal"
