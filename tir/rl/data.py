"""Training rows as verl reads them: the upstream parquet with the question turned into chat messages.

Upstream's file has `question` as a plain string and no row number; verl 0.9.1 takes a list of messages, and the row number is
what makes a trajectory's seed and a batch's order reproducible. Golds become lists of strings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pyarrow
import pyarrow.parquet

from tir.data.rl_rows import golds_of, read_rl_rows
from tir.records import atomic_path


def prepare_rows(source: str | os.PathLike, output: str | os.PathLike, system_prompt: str, limit: int | None = None) -> int:
    """Write the first `limit` rows of an upstream file for verl; returns how many.

    Args:
        source: parquet as `read_rl_rows` takes it.
        output: parquet with `prompt` (messages), `data_source`, `ability`, `reward_model`, `extra_info.index` (row number).
        system_prompt: text of the system turn.

    Raises `DataError` naming file, row and column.
    """
    prepared = [_prepare(row, number, system_prompt) for number, row in enumerate(read_rl_rows(source, limit))]
    with atomic_path(output) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(prepared), temporary)
    return len(prepared)


def _prepare(row: Mapping[str, Any], number: int, system_prompt: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "system", "content": system_prompt}, {"role": "user", "content": row["question"]}],
        "data_source": row["data_source"],
        "ability": row["ability"],
        "reward_model": {"ground_truth": golds_of(row), "style": "rule"},
        "extra_info": {"index": number},
    }
