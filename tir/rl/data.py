"""Convert the upstream parquet to the columns that verl reads.

Upstream has `question` as a string and no row number. verl 0.9.1 expects a list of chat messages. Row numbers are added
because the seeds of trajectories and the order of a batch depend on them. Golds become lists of strings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import pyarrow
import pyarrow.parquet

from tir.common.errors import DataError
from tir.common.files import atomic_path
from tir.data.rl_rows import golds_of, read_rl_rows
from tir.rollout.prompts import refuse_open_thought, render_prompt


def prepare_rows(
    source: str | os.PathLike,
    output: str | os.PathLike,
    system_prompt: str,
    tokenizer,
    max_prompt_tokens: int,
    limit: int | None = None,
    max_overlong: float = 0.1,
) -> int:
    """Convert the first `limit` rows of an upstream file, except those whose prompt is too long; return their number.

    verl's own filter is not used: it drops every row if the tokenizer's chat template has no system role.

    Args:
        source: upstream parquet (see `read_rl_rows`).
        output: parquet with `prompt` (messages), `data_source`, `ability`, `reward_model` and `extra_info.index` (row
            number).
        system_prompt: text of the system turn.
        tokenizer: the policy's tokenizer; its chat template renders the prompts.
        max_prompt_tokens: prompts with more tokens are dropped, and their number is printed.
        limit: number of rows to read; None for all.
        max_overlong: largest share of rows that may be dropped.

    Raises:
        DataError: a row is invalid (the error names file, row and column), more rows would be dropped, or the chat
            template opens a thought.
    """
    refuse_open_thought(tokenizer)
    rows = list(enumerate(read_rl_rows(source, limit)))
    lengths = [len(render_prompt(tokenizer, system_prompt, row["question"])) for _, row in rows]
    kept = [
        _prepare(row, number, system_prompt)
        for (number, row), length in zip(rows, lengths, strict=True)
        if length <= max_prompt_tokens
    ]
    dropped = len(rows) - len(kept)
    if not kept or dropped > max_overlong * len(rows):
        raise DataError(
            "too many prompts are too long" if kept else "every prompt is too long",
            where=str(source),
            why=f"{dropped} of {len(rows)} prompts have more than {max_prompt_tokens} tokens (rl.max_prompt_tokens); "
            f"the longest has {max(lengths)}, and a share of {max_overlong:g} may be dropped (rl.max_overlong)",
            remedy=f"rl: {{max_prompt_tokens: {max(lengths)}}}",
        )
    if dropped:
        print(
            f"{source}: dropped {dropped} of {len(rows)} rows: their prompts have more than {max_prompt_tokens} tokens "
            "(rl.max_prompt_tokens)",
            file=sys.stderr,
        )
    with atomic_path(output) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept), temporary)
    return len(kept)


def _prepare(row: Mapping[str, Any], number: int, system_prompt: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "system", "content": system_prompt}, {"role": "user", "content": row["question"]}],
        "data_source": row["data_source"],
        "ability": row["ability"],
        "reward_model": {"ground_truth": golds_of(row), "style": "rule"},
        "extra_info": {"index": number},
    }
