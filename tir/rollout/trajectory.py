"""The result of a rollout: segments of model and tools, their ids and mask, and the reason of its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tir.rollout.protocol import Segment

Finish = Literal["answer", "length", "budget"]


@dataclass
class Trajectory:
    """A finished rollout.

    Attributes:
        segments: model and tool segments in order.
        finish: `answer` (the model ended its text), `length` (maximum length reached) or `budget` (the model called a
            tool beyond the budget; with `over_budget: notice`, again after the notice).
        executed: number of executed calls, by tag.
        emitted: number of calls that the model wrote, by tag.
        helped: number of changes by inference-time helpers, by helper.
        seconds: wall time.
        tool_seconds: the part of `seconds` spent waiting for tools.
    """

    segments: list[Segment] = field(default_factory=list)
    finish: Finish = "answer"
    executed: dict[str, int] = field(default_factory=dict)
    emitted: dict[str, int] = field(default_factory=dict)
    helped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tool_seconds: float = 0.0

    @property
    def response_ids(self) -> list[int]:
        """All ids after the prompt, of model and tools."""
        return [token for segment in self.segments for token in segment.token_ids]

    @property
    def response_mask(self) -> list[int]:
        """1 on model tokens, 0 on tool tokens; same length as `response_ids`."""
        return [int(segment.by == "model") for segment in self.segments for _ in segment.token_ids]

    @property
    def response_log_probs(self) -> list[float]:
        """Sampling log-probabilities, 0 on tool tokens; same length as `response_ids`."""
        return [value for segment in self.segments for value in (segment.log_probs or [0.0] * len(segment.token_ids))]
