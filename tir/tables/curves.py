"""Training metrics over steps, from the records of an arm's runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.errors import DataError

_STEP_KEYS = ("step", "training/global_step")


def curve(runs: Mapping[int, Sequence[Mapping[str, Any]]], key: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which every seed logged a metric, and its values (seeds, steps); `DataError` if there are none."""
    tables = [{_step(row): float(row[key]) for row in rows if row.get(key) is not None} for rows in runs.values()]
    steps = sorted(set.intersection(*map(set, tables)))
    if not steps:
        logged = sorted({name for rows in runs.values() for row in rows for name in row if "/" in name})
        raise DataError(f"metric {key} was not logged", where=f"arm {arm}", why=f"there are {', '.join(logged[:12])}")
    return np.array(steps), np.array([[table[step] for step in steps] for table in tables])


def validation_key(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The validation score among logged metrics: verl's `val-core/...` (first by name), else the fork's `val/...`."""
    names = sorted({name for rows in runs.values() for row in rows for name in row if name.startswith("val")})
    for prefix, part in (("val-core/", "/mean@"), ("val-core/", ""), ("val/", "score"), ("val", "score"), ("val", "")):
        found = next((name for name in names if name.startswith(prefix) and part in name), None)
        if found:
            return found
    raise DataError("no validation score was logged", where="metrics", why="no metric starts with val")


def _step(row: Mapping[str, Any]) -> int:
    for key in _STEP_KEYS:
        if key in row:
            return int(row[key])
    raise DataError("a metrics record has no step", where="metrics", why=f"its keys are {', '.join(list(row)[:8])}")
