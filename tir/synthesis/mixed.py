"""Rows that search and then compute, which upstream's corpus lacks: its questions have one tool each.

Such a row extends a good search trajectory whose answer is a whole number, such as a year. The question asks for more,
and the trajectory goes on with a program, which runs, in the place of its answer. The teacher wrote everything up to
there; the rest is written here, from the templates below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from tir.rollout.protocol import render_result
from tir.synthesis.classify import row_category

_STEPS = (
    ("Multiply the answer by {n}.", "{gold}*{n}", (2, 9)),
    ("Add {n} to the answer.", "{gold}+{n}", (11, 999)),
    ("Give the remainder when the answer is divided by {n}.", "{gold}%{n}", (3, 97)),
)
_NUMBER = re.compile(r"\d{1,9}")


def mixed_count(share: float, rows: int) -> int:
    """Number of mixed rows to add to `rows` other rows, so that they are `share` of all."""
    return round(share / (1 - share) * rows)


def mixed_rows(
    rows: Sequence[Mapping[str, Any]],
    count: int,
    run_python: Callable[[list[str]], list[str]],
    instruction: str,
    seed: int,
) -> list[dict]:
    """At most `count` Alpaca rows; fewer if there are fewer search trajectories whose answer is a whole number.

    Args:
        rows: rows of `tir.synthesis.normalise.normalise`.
        count: number of rows to make.
        run_python: programs -> what they print, in order.
        instruction: the system prompt.
        seed: seed of the choice of questions and steps.
    """
    random = Random(f"mixed:{seed}")
    found = [(row, output) for row in rows if (output := _extensible(row))]
    random.shuffle(found)
    drafts = [_draft(row, output, random) for row, output in found[:count]]
    printed = run_python([f"print({expression})" for _, _, expression in drafts])
    return [
        {"instruction": instruction, "input": question, "output": _output(begun, expression, text)}
        for (question, begun, expression), text in zip(drafts, printed, strict=True)
        if _NUMBER.fullmatch(text.strip())
    ]


def _extensible(row: Mapping[str, Any]) -> str | None:
    """The shortest good trajectory that only searches, if the answer is one whole number."""
    if len(row["gold"]) != 1 or not _NUMBER.fullmatch(row["gold"][0].strip()):
        return None
    outputs = [each["output"] for each in row["trajectories"] if row_category(each["output"]) == "search_only"]
    return min(outputs, key=lambda output: (len(output), output), default=None)


def _draft(row: Mapping[str, Any], output: str, random: Random) -> tuple[str, str, str]:
    """The longer question, the trajectory up to its answer, and the expression to compute."""
    words, expression, (low, high) = random.choice(_STEPS)
    number, gold = random.randint(low, high), int(row["gold"][0])
    question = f"{row['question']} {words.format(n=number)}"
    return question, output[: output.rindex("<answer>")].rstrip(), expression.format(gold=gold, n=number)


def _output(begun: str, expression: str, printed: str) -> str:
    call = f"<think>now compute {expression}.</think><python>print({expression})</python>{render_result(printed)}"
    return begun + call + rf"<answer>\[ \boxed{{{printed.strip()}}} \]</answer>"
