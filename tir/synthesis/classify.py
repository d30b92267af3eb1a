"""Step 3: compare reasoning without and with tools for each question, and choose what it becomes.

    right without tools     right with tools    category        becomes
    yes                     yes                 easy            fine-tuning rows without tools
    no                      yes                 needs tools     fine-tuning rows with tools
    yes                     no                  tools harm      fine-tuning rows without tools
    no                      no                  hard            an RL prompt

A way of reasoning is right on a question if at least a share of its samples is (`right_share`). Of a question's good
trajectories of that kind, those with the fewest calls become rows, then the shortest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from tir.rollout.categories import tool_category
from tir.rollout.protocol import executed_tools, split_output

if TYPE_CHECKING:
    from tir.config.synthesis import Classification

# By whether reasoning is right without tools, and with tools.
_CATEGORY = {(True, True): "easy", (False, True): "needs tools", (True, False): "tools harm", (False, False): "hard"}
CATEGORIES = tuple(_CATEGORY.values())
_KINDS = {"easy": ("direct",), "tools harm": ("direct",), "needs tools": ("tools", "hint"), "hard": ()}


def category(row: Mapping[str, Any], right_share: float) -> str:
    """The category of a question with its `direct` and `tools` counts."""
    right = tuple(row[kind]["right"] >= right_share * row[kind]["samples"] for kind in ("direct", "tools"))
    return _CATEGORY[right]


def chosen(row: Mapping[str, Any], rules: Classification) -> list[str]:
    """Texts of the trajectories that become fine-tuning rows."""
    kinds = _KINDS[category(row, rules.right_share)]
    good = [each for each in row["trajectories"] if each["kind"] in kinds]
    good.sort(key=lambda each: (each["calls"], len(each["output"]), each["output"]))
    return [each["output"] for each in good[: rules.rows_per_question]]


def classify(
    rows: Sequence[Mapping[str, Any]], instruction: str, rules: Classification
) -> tuple[list[dict], list[dict], dict]:
    """Fine-tuning rows, RL rows, and a report.

    Args:
        rows: rows of `tir.synthesis.normalise.normalise`.
        instruction: the system prompt, which every fine-tuning row holds.
        rules: the section `synthesis.classification`.

    Returns:
        Alpaca rows in a seeded order; RL rows in the order of the file; and the report: `difficulty` as numbers of
        questions by task and category, `without_row`: questions whose category asks for a row but that have no good
        trajectory of its kind.
    """
    difficulty: Counter[tuple[str, str]] = Counter()
    sft, rl, without_row = [], [], 0
    for row in rows:
        found = category(row, rules.right_share)
        difficulty[row["task"], found] += 1
        if found == "hard":
            rl.append(rl_row(row))
            continue
        outputs = chosen(row, rules)
        sft += [{"instruction": instruction, "input": row["question"], "output": output} for output in outputs]
        without_row += not outputs
    Random(f"synthesis:{rules.seed}").shuffle(sft)
    tasks = sorted({task for task, _ in difficulty})
    by_task = {task: {each: difficulty[task, each] for each in CATEGORIES} for task in tasks}
    return sft, rl, {"difficulty": by_task, "without_row": without_row}


def row_category(output: str) -> str:
    """Tool category of a row, by the tools that ran in it."""
    ran = executed_tools(split_output(output))
    return tool_category(ran["python"], ran["search"])


def rl_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a row of RL training, in the columns of Multi-Tool-RL-10K."""
    golds = list(row["gold"])
    return {
        "data_source": row["source"],
        "question": row["question"],
        "ability": row["task"],
        "reward_model": {"ground_truth": golds, "style": "rule"},
        "extra_info": {"index": int(row["id"])},
    }
