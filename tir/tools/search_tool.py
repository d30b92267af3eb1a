"""The search tool: a query in, passages out, through the retrieval server's FlashRAG interface."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tir.retrieval.render import render_passages
from tir.schema import Model, operational
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind

if TYPE_CHECKING:
    from tir.retrieval.client import SearchClient


class SearchToolConfig(Model):
    """Settings of the search tool."""

    top_k: int = Field(5, ge=1, le=100, description="passages per query; upstream code 5, its author says 10")
    output_chars: int | None = Field(8000, ge=16, le=100_000, description="cap on the payload; null: none")
    timeout_s: float = operational(60.0, gt=0, le=600, description="seconds to wait for an answer")
    retry_budget_s: float = operational(90.0, ge=0, le=3600, description="seconds after which a fault is final")


class SearchTool:
    """Wikipedia search (upstream `evaluation/utils.py: batch_search`).

    Args:
        client: a `SearchClient`; its faults pass through as `SearchUnavailable`.
        output_chars: cap on the payload in characters; None: none.
    """

    def __init__(self, client: SearchClient, *, output_chars: int | None = 8000):
        self.client, self.output_chars = client, output_chars

    async def call(self, body: str) -> ToolResult:
        """Search; a blank query is the model's fault and answered as such (upstream: "invalid query")."""
        started = time.monotonic()
        if not body.strip():
            return ToolResult("invalid query", "error", 0.0)
        passages = await self.client.search(body.strip())
        return ToolResult(cap(render_passages(passages), self.output_chars), "ok", time.monotonic() - started)


@contextlib.contextmanager
def _make(settings: Mapping[str, Any], endpoint: str | None) -> Iterator[SearchTool]:
    from tir.retrieval.client import SearchClient  # a client that whoever reads the configuration does without

    asked = {key: value for key, value in settings.items() if key != "output_chars"}
    yield SearchTool(SearchClient(endpoint, **asked), output_chars=settings["output_chars"])


TOOL = ToolKind("search", SearchToolConfig, _make, retrieval=True)
