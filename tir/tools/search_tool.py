"""The search tool: takes a query, returns passages from the retrieval server (FlashRAG's HTTP interface)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from tir.common.schema import Model, operational
from tir.retrieval.passage import render_passages
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind

if TYPE_CHECKING:
    from tir.retrieval.client import SearchClient


class SearchToolConfig(Model):
    """Settings of the search tool."""

    top_k: int = Field(5, ge=1, le=100, description="passages per query; upstream's code uses 5, its author states 10")
    output_chars: int | None = Field(
        8000, ge=16, le=100_000, description="longest payload in characters; null: no limit"
    )
    timeout_s: float = operational(60.0, gt=0, le=600, description="longest wait for one answer in seconds")
    retry_budget_s: float = operational(
        90.0, ge=0, le=3600, description="a query that still fails after this many seconds of retries stops the stage"
    )


class SearchTool:
    """Wikipedia search (upstream `evaluation/utils.py: batch_search`).

    Args:
        client: a `SearchClient`; `call` raises its `SearchUnavailable`.
        output_chars: longest payload in characters; None: no limit.
    """

    def __init__(self, client: SearchClient, *, output_chars: int | None):
        self.client, self.output_chars = client, output_chars

    async def call(self, body: str) -> ToolResult:
        """Search; a blank query is a fault of the model and returns "invalid query" (as upstream)."""
        started = time.monotonic()
        if not body.strip():
            return ToolResult("invalid query", "error", 0.0)
        passages = await self.client.search(body.strip())
        return ToolResult(cap(render_passages(passages), self.output_chars), "ok", time.monotonic() - started)


@contextlib.contextmanager
def _make(settings: SearchToolConfig, endpoint: str | None) -> Iterator[SearchTool]:
    from tir.retrieval.client import SearchClient  # imported here: reading a configuration must not import httpx

    client = SearchClient(
        endpoint, top_k=settings.top_k, timeout_s=settings.timeout_s, retry_budget_s=settings.retry_budget_s
    )
    yield SearchTool(client, output_chars=settings.output_chars)


TOOL = ToolKind("search", SearchToolConfig, _make, retrieval=True)
