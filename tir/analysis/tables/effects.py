"""Effects of a study: the difference of every arm to the baseline in every outcome (`tir.analysis.outcomes`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.analysis.contrast import distribution
from tir.analysis.numbers import fixed, significant
from tir.analysis.outcomes import TRAINING, UNITS, Measured, measured
from tir.analysis.statistics import ONE_SEED, holm
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table

LEVEL, DIGITS = 0.95, 4
COLUMNS = ["arm", "outcome", "task", "unit", "baseline", "value", "difference", "lo", "hi", "p", "holm_p"]
COLUMNS += ["holm_over", "mde", "seeds", "items", "left_out", "method"]


def effects(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """One row per outcome, task and arm; params: as in `tir.analysis.outcomes`, and power."""
    found = measured(inputs, params)
    corrected, sizes = corrections(found)
    rows = [
        _row(each, corrected.get(number), strictest(sizes[each.family]), sizes[each.family], params["power"])
        for number, each in enumerate(found)
    ]
    notes = [
        f"Each arm minus {params['baseline']['arm']}, seed by seed and item by item; the mean over benchmarks, which "
        "weigh equally. lo and hi: 95 % interval over seeds and items, for kl and entropy over seeds.",
        "holm_p is corrected by Holm's method over the holm_over comparisons of the same family: accuracy and what was "
        f"forgotten, behaviour, training. mde is the smallest difference found with probability {params['power']:g}.",
        "forgotten: share of wrong answers among all items that the fine-tuned model answers right. left_out: items "
        "not compared, because some run has no value for them (without a tool call there is no first tool), or because "
        "they are alone in their benchmark. Bigrams that no run shows in a task have no row.",
        *_not_logged(found),
    ]
    if len(params["seeds"]) == 1:
        notes.append(f"{ONE_SEED[0].upper()}{ONE_SEED[1:]}; the intervals are over items alone.")
    return {"": Table("Effects of the arms", COLUMNS, rows, notes)}


def corrections(found: Sequence[Measured]) -> tuple[dict[int, float], Counter]:
    """Holm's p-values by position, for outcomes with several seeds, and the number of comparisons of each family."""
    tested = [number for number, each in enumerate(found) if each.seeds > 1]
    sizes = Counter(found[number].family for number in tested)
    corrected = {}
    for family in sizes:
        members = [number for number in tested if found[number].family == family]
        p = holm([found[number].contrast.p() for number in members])
        corrected |= dict(zip(members, p, strict=True))
    return corrected, sizes


def strictest(family: int) -> float:
    """Confidence level that the smallest p-value of a family must reach."""
    return 1 - (1 - LEVEL) / max(family, 1)


def _row(each: Measured, corrected: float | None, level: float, family: int, power: float) -> list[Any]:
    place = [each.arm, each.outcome, each.task, UNITS[each.measure]]
    found = each.contrast
    if found is None:
        return [*place, *[""] * 9, 0, 0, each.left_out, "fewer than two items can be compared"]
    values = [np.mean([table.mean() for table in tables]) for tables in (each.baseline, each.own)]
    training, once = each.family == "training", each.seeds == 1
    shown = [_number(each.scale * value) for value in (*values, found.value, *found.interval(LEVEL))]
    tests = ["" if corrected is None else significant(p, 4) for p in (found.p(), corrected)]
    mde = _number(each.scale * found.detectable(level, power)) if not once else ""
    items = "" if training else found.n
    return [*place, *shown, *tests, family, mde, each.seeds, items, each.left_out, _method(each, found.freedom)]


def _method(each: Measured, freedom: float) -> str:
    if each.seeds == 1:
        return "one seed" if each.family == "training" else "items (one seed), paired"
    over = f"{each.seeds} seeds" if each.family == "training" else f"items and {each.seeds} seeds"
    return f"{distribution(freedom)} over {over}, paired"


def _number(value: float) -> str:
    return fixed(value, DIGITS) if np.isfinite(value) else ""


def _not_logged(found: Sequence[Measured]) -> list[str]:
    missing = [name for name in TRAINING if name not in {each.outcome for each in found}]
    return [f"Not logged by every run, so without a row: {', '.join(missing)}."] if missing else []
