"""The interface of inference-time helpers: the rollout loop calls them before each turn and after a failed call.

Helpers change the model's text and the results it reads, so only evaluation uses them. A trajectory counts their
changes.
"""

from __future__ import annotations

from typing import Protocol

from tir.rollout.engines.base import Sampling
from tir.rollout.protocol import ToolCall
from tir.rollout.trajectory import Trajectory
from tir.tools.base import Tool, ToolResult


class TrajectoryHelper(Protocol):
    """The helpers of one trajectory."""

    async def before_turn(self, prompt_ids: list[int], sampling: Sampling) -> Sampling:
        """Called before each turn; may shorten the trajectory. Returns the sampling parameters of the turn."""
        ...

    async def after_failure(self, call: ToolCall, result: ToolResult, tool: Tool) -> ToolResult | None:
        """Called after a failed call. Returns its result, a new one, or None if it removed the call."""
        ...


class Helpers(Protocol):
    """Creates the helpers of each trajectory."""

    def begin(self, trajectory: Trajectory, tokenizer) -> TrajectoryHelper: ...
