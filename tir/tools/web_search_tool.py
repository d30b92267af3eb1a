"""The web search tool: a query in, titles and snippets out (upstream `deep_search`)."""

from __future__ import annotations

import time
from typing import Literal

from tir.tools.base import ToolResult, cap
from tir.websearch.bing import WebSearch, pages, render_pages


class WebSearchTool:
    """Answers the `<search>` tag from the web.

    Args:
        web: any `WebSearch`; its faults pass through.
        top_k: results shown (upstream 10).
        output_chars: cap on the payload in characters; None: none.
        layout: see `render_pages`.
    """

    def __init__(self, web: WebSearch, *, top_k: int = 10, output_chars: int | None = 8000,
                 layout: Literal["titled", "snippets"] = "titled"):
        self.web, self.top_k, self.output_chars, self.layout = web, top_k, output_chars, layout

    async def call(self, body: str) -> ToolResult:
        """Search; a blank query is the model's fault and answered as such."""
        started = time.monotonic()
        if not body.strip():
            return ToolResult("invalid query", "error", 0.0)
        found = pages(await self.web.search(body.strip()))[: self.top_k]
        return ToolResult(cap(render_pages(found, self.layout), self.output_chars), "ok", time.monotonic() - started)
