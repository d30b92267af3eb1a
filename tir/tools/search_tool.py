"""The search tool: a query in, passages out, through the retrieval server's FlashRAG interface."""

from __future__ import annotations

import time

from tir.retrieval.client import SearchClient
from tir.retrieval.render import render_passages
from tir.tools.base import ToolResult, cap


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
