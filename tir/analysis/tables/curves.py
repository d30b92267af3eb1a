"""Training metrics over steps, from the records of an arm's runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.common.errors import DataError

_STEP_KEYS = ("step", "training/global_step")


def curve(runs: Mapping[int, Sequence[Mapping[str, Any]]], key: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which every seed logged a metric, shape (steps,), and its values, shape (seeds, steps).

    Raises `DataError` if there is no such step.
    """
    tables = [{_step(row): float(row[key]) for row in rows if row.get(key) is not None} for rows in runs.values()]
    steps = sorted(set.intersection(*map(set, tables)))
    if not steps:
        logged = sorted({name for rows in runs.values() for row in rows for name in row if "/" in name})
        raise DataError(
            f"metric {key} was not logged", where=f"arm {arm}", why=f"logged metrics: {', '.join(logged[:12])}"
        )
    return np.array(steps), np.array([[table[step] for step in steps] for table in tables])


def validation_key(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Name of the validation score: verl's `val-core/...` (first by name), else the upstream fork's `val/...`."""
    names = sorted({name for rows in runs.values() for row in rows for name in row if name.startswith("val")})
    for prefix, part in (("val-core/", "/mean@"), ("val-core/", ""), ("val/", "score"), ("val", "score"), ("val", "")):
        match = next((name for name in names if name.startswith(prefix) and part in name), None)
        if match:
            return match
    raise DataError("no validation score was logged", where="metrics.jsonl", why="no metric's name starts with `val`")


def _step(row: Mapping[str, Any]) -> int:
    for key in _STEP_KEYS:
        if key in row:
            return int(row[key])
    raise DataError(
        "a metrics record has no step",
        where="metrics.jsonl",
        why=f"its keys are {', '.join(list(row)[:8])}; a step is `step` or `training/global_step`",
    )
