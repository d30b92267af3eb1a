"""Power of a study, planned from a pilot of few seeds: what varies, and the seeds and items that would be enough.

The differences of an arm to the baseline vary between items, between seeds, and within both (single answers). With N
items in all and S seeds, the variance of their mean is

    V(S, N) = items / N + within / (N S) + seeds / S

The three variances are means over the arms, because two seeds of one arm say little. A pilot in which nothing differs
does not prove that nothing would: one gained and one lost item are added to the variance of items. The quantiles are
those of Student's t. Both is as in `tir.analysis.contrast`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tir.analysis.contrast import Contrast, of_seeds, satterthwaite, variance_split
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
    """Variances of a difference: between items, between seeds, within both; `groups` is the number of benchmarks."""

    items: float
    seeds: float
    within: float
    groups: int

    def contrast(self, seeds: int, items: int) -> Contrast:
        """The mean of `items` items in all and `seeds` seeds, of which only the variance is known."""
        of_items = self.items / items if items else 0.0
        training = self.seeds / seeds + (self.within / (items * seeds) if items else 0.0)
        freedom = satterthwaite([(of_items, max(items - self.groups, 1)), of_seeds(training, seeds)])
        return Contrast(0.0, of_items, training, of_items + training, freedom, items, np.inf, seeds, 0.0)


def variances(differences: Sequence[np.ndarray]) -> Variances:
    """The variances of one arm, from (seeds, items) per benchmark with two or more seeds."""
    if len(differences[0][0]) == 1:  # a metric of training
        return Variances(0.0, float(differences[0][:, 0].var(ddof=1)), 0.0, 1)
    parts = [variance_split(table[:, :, None]) for table in differences]
    total, within = sum(table.shape[1] for table in differences), float(np.mean([part["within"] for part in parts]))
    means = np.mean([table.mean(axis=1) for table in differences], axis=0)
    changed = np.concatenate([table.mean(axis=0) for table in differences])
    changed = changed[changed != 0]
    typical = float(np.mean(changed**2)) if changed.size else 1.0
    return Variances(
        items=float(np.mean([part["items"] for part in parts])) + 2 * typical / total,
        seeds=max(0.0, float(means.var(ddof=1)) - within / total),
        within=within,
        groups=len(differences),
    )


def pooled(each: Sequence[Variances]) -> Variances:
    """The mean over arms."""
    fields = ([getattr(one, name) for one in each] for name in ("items", "seeds", "within"))
    return Variances(*(float(np.mean(values)) for values in fields), max(one.groups for one in each))


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
        f"probability {params['power']:g}, after the correction for all comparisons of its family. seeds_needed: with "
        "the items of the pilot; items_needed: with planned_seeds, in all benchmarks of the task together. "
        f'"more": not even {MOST_SEEDS} seeds, or {MOST_ITEMS:,} items, are enough.',
        "Standard deviations are those of the difference of an arm to the baseline: between items, between seeds, and "
        "within (single answers). Their variances are means over the arms, with one gained and one lost item added. "
        "Those over seeds are rough: they have one degree of freedom per arm and further seed. mde: what the pilot "
        f"itself finds with probability {params['power']:g}.",
    ]
    if absent:
        notes.append(f"Fewer than two items can be compared, so without a row: {', '.join(absent)}.")
    return {"": Table("Power, planned from the pilot", COLUMNS, rows, notes)}


def _row(members: Sequence[Measured], level: float, params: Mapping[str, Any]) -> list[Any]:
    first, effect = members[0], params["effects"][members[0].measure]
    found = pooled([variances(each.differences) for each in members])
    training = first.family == "training"
    items = 0 if training else int(np.mean([sum(table.shape[1] for table in each.own) for each in members]))
    planned = params["planned_seeds"]

    def detects(seeds: int, items: int) -> bool:
        return found.contrast(seeds, items).detectable(level, params["power"]) <= effect

    seeds_needed = smallest(lambda seeds: detects(seeds, items), 2, MOST_SEEDS)
    items_needed = None if training else smallest(lambda number: detects(planned, number), found.groups + 1, MOST_ITEMS)
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
    return fixed(each.scale * value, 4)
