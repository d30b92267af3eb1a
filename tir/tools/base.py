"""The interface of a tool: an asynchronous call that takes text and returns text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class ToolResult:
    """The result of one call.

    Attributes:
        text: the payload shown to the model, already shortened to the tool's limit.
        status: `ok`, or a fault of the model (`error`, `timeout`). Infrastructure faults are raised, never returned.
        seconds: wall time of the call.
    """

    text: str
    status: Literal["ok", "error", "timeout"]
    seconds: float


class Tool(Protocol):
    """A tool that the rollout loop can call; raises `InfrastructureFault` if the tool itself fails."""

    async def call(self, body: str) -> ToolResult: ...


def cap(text: str, limit: int | None) -> str:
    """Shorten to `limit` characters plus dots, keeping both ends (upstream `python_executor.py`: 200 + ... + 200)."""
    if limit is None or len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + "..." + text[-half:]
