"""Reader and writer of RL rows in upstream's Parquet format; the reader checks every row."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tir.common.errors import DataError
from tir.common.files import atomic_path
from tir.data.formats import PARQUET_ERRORS

ABILITIES = ("math", "qa")
# Upstream's training file has 1 such row in 10,000: a construction with compass and straightedge.
_UNANSWERABLE = 0.01
COLUMNS = ("data_source", "question", "ability", "reward_model")


def read_rl_rows(path: str | os.PathLike, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a Parquet file with the columns `COLUMNS`.

    Each row has a question, an ability in `ABILITIES`, and a text or a list of texts in `reward_model.ground_truth`.

    Raises `DataError` with file, row (from 0) and column.
    """
    rows = _read(path)[:limit]
    if not rows:
        raise DataError("no rows", where=str(path), why="the file is empty")
    for number, row in enumerate(rows):
        _check(row, f"{path}: row {number}")
    _report_unanswerable(rows, path)
    return rows


def write_rl_rows(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as Parquet in upstream's columns; gold answers are texts, or lists if a row has several."""
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.string()
    several = any(len(golds_of(row)) > 1 for row in rows)
    model = pyarrow.struct([("ground_truth", pyarrow.list_(text) if several else text), ("style", text)])
    columns = [("data_source", text), ("question", text), ("ability", text), ("reward_model", model)]
    schema = pyarrow.schema([*columns, ("extra_info", pyarrow.struct([("index", pyarrow.int64())]))])
    written = []
    for row in rows:
        golds = golds_of(row)
        written.append(row | {"reward_model": {"ground_truth": golds if several else golds[0], "style": "rule"}})
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(written, schema), temporary)


def _report_unanswerable(rows: Sequence[Mapping], path: str | os.PathLike) -> None:
    """Print the rows with a blank gold answer, or refuse the file if there are too many."""
    numbers = [number for number, row in enumerate(rows) if not all(map(str.strip, golds_of(row)))]
    if not numbers:
        return
    named = ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
    if len(numbers) > _UNANSWERABLE * len(rows):
        raise DataError(
            "no answer can equal a blank one",
            where=f"{path}: row {numbers[0]}: reward_model.ground_truth",
            why=f"{len(numbers)} of {len(rows)} rows have a blank gold answer (rows {named}); at most "
            f"{_UNANSWERABLE:.0%} may",
        )
    print(f"{path}: the gold answer is blank, so every reward is 0: row {named}", file=sys.stderr)


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
            raise DataError(
                "column is missing",
                where=f"{path}:{missing[0]}",
                why=f"the file has the columns {', '.join(table.column_names)}",
            )
        return table.select(list(COLUMNS)).to_pylist()
    except PARQUET_ERRORS as error:
        raise DataError("cannot read Parquet file", where=str(path), why=str(error).splitlines()[0]) from None


def _check(row: Mapping[str, Any], where: str) -> None:
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise DataError("no question", where=f"{where}: question", why=f"the value is {row['question']!r}")
    if not isinstance(row["data_source"], str):
        raise DataError("no data source", where=f"{where}: data_source", why=f"the value is {row['data_source']!r}")
    if row["ability"] not in ABILITIES:
        raise DataError(
            "no reward rule for this ability",
            where=f"{where}: ability",
            why=f"the value is {row['ability']!r}",
            remedy=f"set ability to one of: {', '.join(ABILITIES)}",
        )
    model = row["reward_model"]
    value = model.get("ground_truth") if isinstance(model, Mapping) else None
    golds = [value] if isinstance(value, str) else value
    if not isinstance(golds, Sequence) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise DataError(
            "no gold answer",
            where=f"{where}: reward_model.ground_truth",
            why=f"the value is {value!r}, not a text or a list of texts",
        )
