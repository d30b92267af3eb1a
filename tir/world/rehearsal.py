r"""SFT rows for a rehearsal on real inputs, in the format of Tool-Star-SFT-54K.

A rehearsal checks formats and lengths, not accuracy. So no tool runs: the result of a call is the gold answer or a real
passage. The rows have what real rows have and generated ones lack: LaTeX, Chinese, golds of every benchmark, programs
with a literal backslash-n, and rows beyond the cutoff.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

from tir.data.benchmarks import Item
from tir.data.rl_rows import golds_of
from tir.rollout.protocol import render_result

LONG_EVERY = 20  # every twentieth row is longer than the paper's cutoff of 4,096 tokens
LONG_CHARACTERS = 24_000
NO_TOOL_EVERY = 10


def rehearsal_rows(
    rl_rows: Sequence[dict], items: Sequence[Item], passages: Sequence[str], instruction: str, rows: int
) -> list[dict]:
    """Rows `{"instruction", "input", "output"}`, the same for the same arguments.

    Args:
        rl_rows: checked rows of RL training; math becomes a trajectory with Python, QA one with a search.
        items: benchmark items; their golds stand in answers beside those of the RL rows.
        passages: texts of passages.
        instruction: the system prompt.
        rows: number of rows; the questions are used again if there are fewer.
    """
    random = Random("rehearsal")
    asked = [(row["ability"], row["question"], golds_of(row)[0]) for row in rl_rows]
    asked += [("qa", item.question, item.gold[0]) for item in items]
    random.shuffle(asked)
    return [
        {"instruction": instruction, "input": question, "output": _output(number, ability, question, gold, passages)}
        for number, (ability, question, gold) in enumerate(islice(cycle(asked), rows))
    ]


def _output(number: int, ability: str, question: str, gold: str, passages: Sequence[str]) -> str:
    passage = passages[number % len(passages)]
    thought = f"<think>The question is: {question}</think>\n"
    if number % LONG_EVERY == LONG_EVERY - 1:
        thought += f"<think>{_long(number, passages)}</think>\n"
    answer = rf"<think>So it is {gold}.</think> <answer>The final answer is \[ \boxed{{{gold}}} \]</answer>"
    if number % NO_TOOL_EVERY == NO_TOOL_EVERY - 1:
        return thought + answer
    if ability == "math":
        program = f"value = {json.dumps(gold, ensure_ascii=False)}\\nprint(value)"
        return f"{thought}<python>{program}</python>{render_result(gold)}\n{answer}"
    return f"{thought}<search>{question}</search>{render_result(passage)}\n{answer}"


def _long(number: int, passages: Sequence[str]) -> str:
    text, parts = 0, []
    for passage in islice(cycle(passages), number, None):
        parts.append(passage)
        text += len(passage)
        if text > LONG_CHARACTERS:
            return "\n".join(parts)
    return ""
