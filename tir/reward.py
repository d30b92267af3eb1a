r"""The rule reward of reinforcement learning, on segments (Tool-Star, hierarchical reward; UPSTREAM `re_search.py`).

    R(tau) = -1                      the protocol is broken
              0                      the protocol is kept, the answer is worth nothing
              acc                    acc in (0, 1]
              acc + bonus            and both tools were really executed

`verified` is ours: acc is mathematical equivalence for math and token F1 for QA; only the policy's own text can break the
protocol, give an answer or earn the bonus, and a tool counts when it ran. `upstream_f1` reproduces the code the study
trained with: token F1 for math too ("5" earns 1.0 against "-5"), and everything is read from the raw text, so a retrieved page
that contains `<answer>` ruins a correct trajectory and tags that were merely written earn the bonus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tir.data.rl_rows import ABILITIES
from tir.errors import DataError
from tir.protocol import TOOLS, Segment, executed_tools, extract_answer, format_fault
from tir.answers.math import math_equal
from tir.answers.qa import token_f1

BROKEN = -1.0
ASSISTANT_HEADER = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class RewardSettings:
    """Which rule, and the bonus of a trajectory that scored and executed both tools (paper 0.1)."""

    mode: Literal["verified", "upstream_f1"] = "verified"
    both_tools_bonus: float = 0.1


@dataclass(frozen=True)
class Reward:
    """The reward of a trajectory and how it came about.

    Attributes:
        score: what the trainer sees.
        accuracy: acc, in [0, 1]; 0 if the protocol is broken.
        fault: why the protocol is broken, or None.
        bonus: whether the bonus was earned.
    """

    score: float
    accuracy: float
    fault: str | None
    bonus: bool


def reward(segments: Sequence[Segment], golds: str | Sequence[str], ability: str,
           settings: RewardSettings = RewardSettings(), executed: Mapping[str, int] | None = None) -> Reward:
    """Score a finished trajectory.

    Args:
        segments: its model and tool segments.
        golds: the gold answer, or several of which the best counts.
        ability: `math` or `qa`, the row's task.
        settings: which rule.
        executed: calls that ran, by tool, as the rollout loop counted them; read from the segments if None (a notice that the
            budget is spent then counts as a call).

    Raises `DataError` for another ability, `ToolUnavailable` if the equivalence worker cannot be started.
    """
    if ability not in ABILITIES:
        raise DataError("no reward rule", where="ability", why=f"{ability!r} is none of {', '.join(ABILITIES)}")
    if settings.mode == "upstream_f1":
        return _upstream(segments, golds, settings.both_tools_bonus)
    fault = format_fault(segments)
    if fault:
        return Reward(BROKEN, 0.0, fault, False)
    answer = extract_answer(segments)
    accuracy = float(math_equal(answer, golds)) if ability == "math" else token_f1(answer, golds, closed_answers=True)
    counts = executed_tools(segments) if executed is None else executed
    return _graded(accuracy, all(counts.get(tool, 0) > 0 for tool in TOOLS), settings.both_tools_bonus)


def _graded(accuracy: float, both_tools: bool, bonus: float) -> Reward:
    earned = accuracy > 0 and both_tools
    return Reward(accuracy + bonus if earned else accuracy, accuracy, None, earned)


def _upstream(segments: Sequence[Segment], golds: str | Sequence[str], bonus: float) -> Reward:
    """Upstream's rule on the decoded text, tool results included; an assistant header ends what it reads."""
    text = "".join(segment.text for segment in segments).split(ASSISTANT_HEADER)[0]
    fault = _upstream_fault(text)
    answer = None if fault else _upstream_answer(text)
    if answer is None:
        return Reward(BROKEN, 0.0, fault or "no boxed answer", False)
    accuracy = token_f1(answer, golds, closed_answers=True, empty_matches=False, as_written=True)
    return _graded(accuracy, all(f"</{tool}>" in text for tool in TOOLS), bonus)


def _upstream_fault(text: str) -> str | None:
    """Upstream's format check: counts of tags anywhere, and the order of each call and the result that follows it."""
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
