"""What a tool is: a name and an asynchronous call from text to text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class ToolResult:
    """What came of one call.

    Attributes:
        text: the payload shown to the model, already capped.
        status: `ok`, or the model's own fault (`error`, `timeout`). Infrastructure faults are raised, never returned.
        seconds: wall time of the call.
    """

    text: str
    status: Literal["ok", "error", "timeout"]
    seconds: float


class Tool(Protocol):
    """A tool the rollout loop can call; raises `InfrastructureFault` when the tool itself failed."""

    async def call(self, body: str) -> ToolResult: ...


def cap(text: str, limit: int | None) -> str:
    """Shorten to `limit` characters plus dots, keeping both ends (upstream `python_executor.py`: 200 + ... + 200)."""
    if limit is None or len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + "..." + text[-half:]
