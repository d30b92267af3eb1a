"""Rows of RL as upstream's Parquet files hold them, checked one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tir.errors import DataError

ABILITIES = ("math", "qa")
COLUMNS = ("data_source", "question", "ability", "reward_model")


def read_rl_rows(path: str | os.PathLike, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a Parquet file with the columns `COLUMNS`.

    Each has a question, an ability of `ABILITIES`, and as `reward_model.ground_truth` a text or a list of texts.

    Raises `DataError` naming file, row (from 0) and column.
    """
    rows = _read(path)[:limit]
    if not rows:
        raise DataError("no rows", where=str(path))
    for number, row in enumerate(rows):
        _check(row, f"{path}: row {number}")
    return rows


def golds_of(row: Mapping[str, Any]) -> list[str]:
    """The accepted answers of a checked row."""
    golds = row["reward_model"]["ground_truth"]
    return [golds] if isinstance(golds, str) else list(golds)


def _read(path: str | os.PathLike) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        missing = [column for column in COLUMNS if column not in table.column_names]
        if missing:
            raise DataError("column is missing", where=f"{path}:{missing[0]}", why=f"the file has {', '.join(table.column_names)}")
        return table.select(list(COLUMNS)).to_pylist()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError, as is a text that is not UTF-8
        raise DataError("cannot read parquet", where=str(path), why=str(error).splitlines()[0]) from None


def _check(row: Mapping[str, Any], where: str) -> None:
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise DataError("no question", where=f"{where}: question", why=f"{row['question']!r}")
    if row["ability"] not in ABILITIES:
        raise DataError("no reward rule for this row", where=f"{where}: ability", why=f"{row['ability']!r}",
                        remedy=f"one of: {', '.join(ABILITIES)}")
    model = row["reward_model"]
    golds = model.get("ground_truth") if isinstance(model, Mapping) else None
    listed = [golds] if isinstance(golds, str) else golds
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(gold, str) for gold in listed):
        raise DataError("no gold answer", where=f"{where}: reward_model.ground_truth", why=f"{golds!r}")
