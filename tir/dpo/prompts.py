"""The prompts that DPO samples trajectories of: questions of the first RL rows, by task."""

from __future__ import annotations

import os
import sys
from typing import Any

from tir.common.errors import DataError
from tir.data.rl_rows import ABILITIES, golds_of, read_rl_rows


def dpo_prompts(path: str | os.PathLike, limit: int) -> dict[str, list[dict[str, Any]]]:
    """Items `{row, question, answer}` of the first `limit` RL rows, by task. Rows with a blank answer are left out.

    Raises `DataError` if a task has none.
    """
    rows = read_rl_rows(path)
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in ABILITIES}
    for number, row in enumerate(rows[:limit]):
        if all(map(str.strip, golds_of(row))):
            found[row["ability"]].append({"row": number, "question": row["question"], "answer": golds_of(row)})
    for task, items in found.items():
        if not items:
            later = [number for number, row in enumerate(rows) if row["ability"] == task and number >= limit]
            raise DataError(
                f"no prompt of {task}",
                where=f"{path}: dpo.pairs.rows",
                why=f"the first {min(limit, len(rows))} of {len(rows)} rows have none; DPO samples prompts of "
                f"{' and '.join(ABILITIES)}",
                remedy=f"dpo: {{pairs: {{rows: {later[0] + 1}}}}}"
                if later
                else f"arms: {{tool_star: null}}  # and other arms with dpo; or add rows of {task} to data.rl_train",
            )
    if blank := len(rows[:limit]) - sum(map(len, found.values())):
        print(f"dpo: left out {blank} rows with a blank answer", file=sys.stderr)
    return found
