"""Power of a study, planned from a pilot of few seeds: what varies, and the seeds and items that would be enough.

The differences of an arm to the baseline vary between items, between seeds, and within both (single answers). With N
items, as many in each benchmark as in the pilot in proportion, and S seeds, the variance of their mean is

    V(S, N) = items / M + within / (M S) + seeds / S + added

M is the number of items of one benchmark with the same precision (N, if all benchmarks have equally many). The three
variances are means over the arms, because two seeds of one arm say little. As in `tir.analysis.contrast`, whose
quantiles and smallest detectable value are used: `added` is the variance of one gained and one lost item, because a
pilot in which nothing differs does not prove that nothing would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tir.analysis.contrast import (
    NORMAL,
    Contrast,
    added_items,
    all_equal,
    contrast,
    of_seeds,
    satterthwaite,
    variance_split,
)
from tir.analysis.numbers import fixed
from tir.analysis.outcomes import UNITS, Measured, measured
from tir.analysis.tables.effects import corrections, strictest
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.common.errors import DataError

MOST_SEEDS, MOST_ITEMS = 1000, 1_000_000
COLUMNS = ["outcome", "task", "unit", "smallest_effect", "sd_items", "sd_seeds", "sd_within", "pilot_seeds"]
COLUMNS += ["pilot_items", "arms", "mde", "seeds_needed", "planned_seeds", "items_needed"]


@dataclass(frozen=True)
class Variances:
    """Variances of a difference.

    Attributes:
        items, seeds, within: between items, between seeds, within both.
        sizes: number of items of each benchmark in the pilot; empty for a metric of training.
        typical: size of an item's difference, as in `Contrast`.
    """

    items: float
    seeds: float
    within: float
    sizes: tuple[int, ...]
    typical: float

    def contrast(self, seeds: int, items: int, effect: float = 0.0) -> Contrast:
        """The mean of `items` items in all and `seeds` seeds, of which only the variance is known.

        An item's difference is at least `effect`, the true mean: no mean is larger than the differences that it is of.
        """
        if not self.sizes:
            of_items, within, added, effective, typical = 0.0, 0.0, 0.0, np.inf, 0.0
        else:
            sizes, typical = items * np.array(self.sizes) / sum(self.sizes), max(self.typical, effect)
            effective = len(sizes) ** 2 / float((1 / sizes).sum())
            of_items, within = self.items / effective, self.within / effective
            added = added_items(typical, sizes)
        training = (self.seeds + within) / seeds
        freedom = satterthwaite(
            [(of_items, max(items - len(self.sizes), 1)), (added, NORMAL), of_seeds(training, seeds)]
        )
        variance = of_items + added + training
        return Contrast(0.0, of_items, training, variance, freedom, items, effective, seeds, typical)


def variances(differences: Sequence[np.ndarray]) -> Variances:
    """The variances of one arm, from (seeds, items) per benchmark with two or more seeds."""
    if len(differences[0][0]) == 1:  # a metric of training
        values = differences[0][:, 0]
        return Variances(0.0, np.inf if all_equal(values) else float(values.var(ddof=1)), 0.0, (), 0.0)
    parts = [variance_split(table[:, :, None]) for table in differences]
    found = contrast(differences, paired=True)
    within = float(np.mean([part["within"] for part in parts]))
    means = np.mean([table.mean(axis=1) for table in differences], axis=0)
    return Variances(
        items=float(np.mean([part["items"] for part in parts])),
        seeds=max(0.0, float(means.var(ddof=1)) - within / found.effective_items),
        within=within,
        sizes=tuple(table.shape[1] for table in differences),
        typical=found.typical,
    )


def pooled(each: Sequence[Variances]) -> Variances:
    """The mean over arms; the sizes are those of the arm with the fewest items."""
    items, seeds, within = (
        float(np.mean([getattr(one, name) for one in each])) for name in ("items", "seeds", "within")
    )
    fewest = min(each, key=lambda one: sum(one.sizes))
    return Variances(items, seeds, within, fewest.sizes, float(np.mean([one.typical**2 for one in each]) ** 0.5))


def smallest(enough: Callable[[int], bool], low: int, most: int) -> int | None:
    """The smallest number from `low` to `most` that is enough, if all larger ones are too; None if none is."""
    high = low
    while not enough(high):
        if high == most:
            return None
        low, high = high + 1, min(2 * high, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def power(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """One row per outcome and task; params: as in `tir.analysis.outcomes`, with the seeds of the pilot."""
    if len(params["seeds"]) < 2:
        raise DataError(
            "a pilot needs two seeds",
            where="rl.seeds",
            why=f"it has {len(params['seeds'])}, and one run does not show how much runs differ",
            remedy="rl: {seeds: [1, 2]}",
        )
    found = measured(inputs, params)
    _, families = corrections(found)
    groups: dict[tuple[str, str], list[Measured]] = {}
    for each in found:
        groups.setdefault((each.outcome, each.task), []).extend([each] if each.own else [])
    rows = [_row(members, strictest(families[members[0].family]), params) for members in groups.values() if members]
    absent = [f"{outcome} ({task})" for (outcome, task), members in groups.items() if not members]
    notes = [
        f"Seeds and items with which a difference of smallest_effect to {params['baseline']['arm']} is found with "
        f"probability {params['power']:g}, after the correction for all comparisons of its family, with as many arms "
        "as the pilot has. seeds_needed: with the items of the pilot; items_needed: with planned_seeds, in all "
        "benchmarks of the task together. "
        f"'more': not even {MOST_SEEDS} seeds, or {MOST_ITEMS:,} items, are enough, because more of the one do not "
        "reduce the variance of the other.",
        "Standard deviations are those of the difference of an arm to the baseline: between items, between seeds, and "
        "within (single answers). Their variances are means over the arms, to which the plan adds one gained and one "
        "lost item. Those over seeds are rough: they have one degree of freedom per arm and further seed. mde: what "
        f"the pilot itself finds with probability {params['power']:g}.",
    ]
    if absent:
        notes.append(f"Fewer than two items can be compared, so without a row: {', '.join(absent)}.")
    return {"": Table("Power, planned from the pilot", COLUMNS, rows, notes)}


def _row(members: Sequence[Measured], level: float, params: Mapping[str, Any]) -> list[Any]:
    first, effect = members[0], params["effects"][members[0].measure]
    found = pooled([variances(each.differences) for each in members])
    training = first.family == "training"
    items, planned = sum(found.sizes), params["planned_seeds"]

    def detects(seeds: int, items: int) -> bool:
        return found.contrast(seeds, items, effect).detectable(level, params["power"]) <= effect

    seeds_needed = smallest(lambda seeds: detects(seeds, items), 2, MOST_SEEDS)
    fewest = 2 * len(found.sizes)  # a benchmark with one item has no variance between items
    items_needed = None if training else smallest(lambda number: detects(planned, number), fewest, MOST_ITEMS)
    deviations = [_shown(first, variance**0.5) for variance in (found.items, found.seeds, found.within)]
    if training:
        deviations[0] = deviations[2] = ""
    return [
        first.outcome,
        first.task,
        UNITS[first.measure],
        _shown(first, effect),
        *deviations,
        first.seeds,
        "" if training else items,
        len(members),
        _shown(first, found.contrast(first.seeds, items).detectable(level, params["power"])),
        seeds_needed or "more",
        planned,
        "" if training else items_needed or "more",
    ]


def _shown(each: Measured, value: float) -> str:
    return fixed(each.scale * value, 4) if np.isfinite(value) else ""
