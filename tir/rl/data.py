"""Training rows as verl reads them: the upstream parquet with the question turned into chat messages.

Upstream's file has `question` as a plain string and no row number; verl 0.9.1 takes a list of messages, and the row number is
what makes a trajectory's seed and a batch's order reproducible. Golds become lists of strings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from tir.errors import DataError
from tir.records import atomic_path
from tir.reward import ABILITIES

COLUMNS = ("data_source", "question", "ability", "reward_model", "extra_info")


def prepare_rows(source: str | os.PathLike, output: str | os.PathLike, system_prompt: str, limit: int | None = None) -> int:
    """Write the first `limit` rows of an upstream file for verl; returns how many.

    Args:
        source: parquet with the columns `COLUMNS`; `reward_model.ground_truth` is a string or a list of strings.
        output: parquet with `prompt` (messages), `data_source`, `ability`, `reward_model`, `extra_info.index` (row number).
        system_prompt: text of the system turn.

    Raises `DataError` naming file, row and column.
    """
    rows = _read(source)[:limit]
    if not rows:
        raise DataError("no rows", where=str(source))
    prepared = [_prepare(row, number, source, system_prompt) for number, row in enumerate(rows)]
    with atomic_path(output) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(prepared), temporary)
    return len(prepared)


def _read(source: str | os.PathLike) -> list[dict[str, Any]]:
    try:
        table = pyarrow.parquet.read_table(source)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError("cannot read parquet", where=str(source), why=str(error).splitlines()[0]) from None
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise DataError("column is missing", where=f"{source}:{missing[0]}",
                        why=f"the file has {', '.join(table.column_names)}")
    return table.select(list(COLUMNS)).to_pylist()


def _prepare(row: Mapping[str, Any], number: int, source: str | os.PathLike, system_prompt: str) -> dict[str, Any]:
    where = f"{source}: row {number}"
    if row["ability"] not in ABILITIES:
        raise DataError("no reward rule for this row", where=f"{where}: ability", why=f"{row['ability']!r}",
                        remedy=f"one of: {', '.join(ABILITIES)}")
    golds = (row["reward_model"] or {}).get("ground_truth")
    golds = [golds] if isinstance(golds, str) else golds
    if not isinstance(golds, Sequence) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise DataError("no gold answer", where=f"{where}: reward_model.ground_truth", why=f"{golds!r}")
    return {
        "prompt": [{"role": "system", "content": system_prompt}, {"role": "user", "content": row["question"]}],
        "data_source": row["data_source"],
        "ability": row["ability"],
        "reward_model": {"ground_truth": list(golds), "style": "rule"},
        "extra_info": {"index": number},
    }
