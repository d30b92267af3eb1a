"""What inference-time helpers are to the rollout loop: three moments at which they may step in.

Helpers change what the model would have written or read by itself, so they belong to evaluation alone, and a
trajectory says how often it was helped.
"""

from __future__ import annotations

from typing import Protocol

from tir.engines.base import Sampling
from tir.protocol import ToolCall
from tir.tools.base import Tool, ToolResult
from tir.trajectory import Trajectory


class Helping(Protocol):
    """The helpers of one trajectory."""

    async def before_turn(self, prompt_ids: list[int], sampling: Sampling) -> Sampling:
        """Before the model writes; may shorten the trajectory. Returns the sampling of the turn."""
        ...

    async def after_failure(self, call: ToolCall, result: ToolResult, tool: Tool) -> ToolResult | None:
        """After a call that the model got wrong: another result, the same, or None if the call was taken back."""
        ...


class Helpers(Protocol):
    """Makes the helpers of each trajectory."""

    def begin(self, trajectory: Trajectory, tokenizer) -> Helping: ...
