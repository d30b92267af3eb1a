"""What a trajectory does: action bigrams, tool calls, the place of its first tool, its length.

Evaluation and the metrics of training measure the same, for every arm alike: nothing here depends on a coefficient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import Any

from tir.rollout.protocol import ACTIONS, TOOLS, Segment, actions, model_texts

# The bigrams of a tool: what comes before a call, and what the policy does with its result.
TOOL_BIGRAMS = tuple((a, b) for a in ACTIONS for b in ACTIONS if {a, b} & {*TOOLS} and a != "answer")


def measures(segments: Sequence[Segment], first_tool: int, finish: str, tokens: float) -> dict[Any, float]:
    """What one trajectory does.

    Occurrences of each action bigram, by the pair of actions; `calls`: tool tags; `offset`: characters of the model's
    text before the first tool tag, and `share`, the same divided by all its characters (phi's u), both NaN without a
    tool; `tokens` of the response, tool results included; `truncated`: 1 if it ended at the length limit.

    Args:
        first_tool: characters of the model's text before the first tool tag, -1 without one.
        finish: how it ended (`tir.rollout.trajectory`).
        tokens: number of response tokens.
    """
    names, chars = actions(segments), sum(map(len, model_texts(segments)))
    offset = first_tool if first_tool >= 0 else nan
    return Counter(pairwise(names)) | {
        "calls": sum(name in TOOLS for name in names),
        "offset": offset,
        "share": offset / chars if chars else nan,
        "tokens": tokens,
        "truncated": finish == "length",
    }
