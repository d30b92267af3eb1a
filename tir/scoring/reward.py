r"""The rule-based reward of reinforcement learning (Tool-Star's hierarchical reward; upstream file `re_search.py`).

    R(tau) = -1                      the format is wrong
              0                      the format is right, acc = 0
              acc                    acc in (0, 1]
              acc + bonus            acc > 0 and both tools were executed

Mode `verified` is this workflow's: acc is mathematical equality for math and token F1 for QA. Only model segments can
violate the format, give an answer or earn the bonus, and only executed calls count. Mode `upstream_f1` reproduces the
study's training code: acc is token F1 for math too ("5" gets 1.0 against "-5"), and the raw text is read, tool results
included. There, a retrieved page that contains `<answer>` makes a correct trajectory invalid, and tags that were
written but not executed earn the bonus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tir.common.errors import DataError
from tir.data.rl_rows import ABILITIES
from tir.rollout.protocol import TOOLS, Segment, executed_tools, extract_answer, format_fault
from tir.scoring.answers.math import math_equal
from tir.scoring.answers.qa import token_f1

if TYPE_CHECKING:
    from tir.config.rl import RewardRule

BROKEN = -1.0
ASSISTANT_HEADER = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Reward:
    """The reward of a trajectory and its parts.

    Attributes:
        score: the reward that the trainer gets.
        accuracy: acc, in [0, 1]; 0 if the format is wrong.
        fault: the format violation, or None.
        bonus: whether `score` includes the bonus.
    """

    score: float
    accuracy: float
    fault: str | None
    bonus: bool


def reward(
    segments: Sequence[Segment],
    golds: str | Sequence[str],
    ability: str,
    rule: RewardRule,
    executed: Mapping[str, int] | None = None,
) -> Reward:
    """Score a finished trajectory.

    Args:
        segments: its model and tool segments.
        golds: the gold answer, or several; the best score counts.
        ability: `math` or `qa`, the row's task.
        rule: the section `rl.reward`.
        executed: number of executed calls by tool, counted by the rollout loop. If None, results in the segments are
            counted, including notices that the call budget is exhausted.

    Raises `DataError` for another ability, `ToolUnavailable` if the worker for symbolic comparison does not start.
    """
    if ability not in ABILITIES:
        raise DataError(
            "no reward rule for this task", where="ability", why=f"{ability!r} is none of {', '.join(ABILITIES)}"
        )
    if rule.mode == "upstream_f1":
        return _upstream_reward(segments, golds, rule.both_tools_bonus)
    fault = format_fault(segments)
    if fault:
        return Reward(BROKEN, 0.0, fault, False)
    answer = extract_answer(segments)
    accuracy = float(math_equal(answer, golds)) if ability == "math" else token_f1(answer, golds, closed_answers=True)
    counts = executed_tools(segments) if executed is None else executed
    return _with_bonus(accuracy, all(counts.get(tool, 0) > 0 for tool in TOOLS), rule.both_tools_bonus)


def _with_bonus(accuracy: float, both_tools: bool, bonus: float) -> Reward:
    earned = accuracy > 0 and both_tools
    return Reward(accuracy + bonus if earned else accuracy, accuracy, None, earned)


def _upstream_reward(segments: Sequence[Segment], golds: str | Sequence[str], bonus: float) -> Reward:
    """Upstream's reward of the decoded text, tool results included; text after an assistant header is not read."""
    text = "".join(segment.text for segment in segments).split(ASSISTANT_HEADER)[0]
    fault = _upstream_fault(text)
    answer = None if fault else _upstream_answer(text)
    if answer is None:
        return Reward(BROKEN, 0.0, fault or "no boxed answer", False)
    accuracy = token_f1(answer, golds, closed_answers=True, empty_matches=False, as_written=True)
    return _with_bonus(accuracy, all(f"</{tool}>" in text for tool in TOOLS), bonus)


def _upstream_fault(text: str) -> str | None:
    """Upstream's format check: numbers of tags anywhere in the text, and a result after each call. None if valid."""
    if text.count("<think>") != text.count("</think>") or "<think>" not in text:
        return "think blocks are missing or unbalanced"
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return "not exactly one answer block"
    for tool in ("search", "python"):
        position = text.find(f"<{tool}>")
        while position >= 0:
            close, result = text.find(f"</{tool}>", position), text.find("<result>", position)
            end = text.find("</result>", max(result, 0))
            if not position < close < result < end:
                return f"a {tool} call is not followed by its result"
            position = text.find(f"<{tool}>", end)
    start, end = text.find("<answer>"), text.find("</answer>")
    if start > end:
        return "answer closes before it opens"
    block = text[start:end]
    return None if "\\boxed{" in block and "}" in block else "no boxed answer"


def _upstream_answer(text: str) -> str | None:
    r"""Content of the last `\boxed{` in the answer block up to its balancing brace, or None."""
    block = text[text.find("<answer>") : text.find("</answer>")]
    start = block.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for position in range(start, len(block)):
        depth += {"{": 1, "}": -1}.get(block[position], 0)
        if depth == 0:
            return block[start:position]
    return None
