"""Failed Python calls of a trajectory, recognised by the text that the model saw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tir.rollout.protocol import Segment, tool_call

# A line of a failed call's result: an exception with its type, or the text of the time limit.
_FAILED = re.compile(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration)(?::|$)|timed out after )", re.M)


def failed_calls(segments: Sequence[Segment]) -> int:
    """Number of Python calls whose result says that they failed; without an exception's type it does not say so."""
    return sum(is_error(before, after) for before, after in pairwise(segments))


def is_error(before: Segment, after: Segment) -> bool:
    """Whether a segment is the result of a failed Python call, which the segment before it ends with."""
    call = tool_call(before.text) if (before.by, after.by) == ("model", "tool") else None
    return bool(call and call.tool == "python" and _FAILED.search(payload(after.text)))


def payload(text: str) -> str:
    """The text of a tool segment without its result tags."""
    return text.strip().removeprefix("<result>").removesuffix("</result>").strip("\n")
