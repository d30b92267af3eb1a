"""The web search tool: a query in, titles and snippets out (upstream `deep_search`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from tir.schema import Model, operational
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind
from tir.websearch.bing import WebSearch, pages, render_pages


class WebSearchToolConfig(Model):
    """Settings of the web search tool. The provider's key is read from the environment (TAVILY_API_KEY), never from here."""

    provider: Literal["tavily"] = "tavily"
    mode: Literal["replay", "record", "live"] = Field(
        "replay", description="replay: the cassette alone, no network; record: the cassette, and what it lacks from the "
                              "provider; live: always the provider")
    cassette: str = Field("cache/web.sqlite", description="recorded answers, by query, provider and parameters")
    top_k: int = Field(10, ge=1, le=20, description="results per query; upstream 10")
    depth: Literal["basic", "advanced"] = Field("basic", description="Tavily's search_depth; advanced costs twice")
    layout: Literal["titled", "snippets"] = Field(
        "titled", description="titled: title, then snippet, a blank line between; snippets: run together, as upstream")
    output_chars: int | None = Field(8000, ge=16, le=100_000, description="cap on the payload; null: none")
    timeout_s: float = operational(20.0, gt=0, le=600, description="seconds to wait for an answer")
    retry_budget_s: float = operational(120.0, ge=0, le=3600, description="seconds after which a fault or a full quota is final")
    concurrency: int = operational(8, ge=1, le=256, description="requests in flight")
    url: str = Field("https://api.tavily.com", pattern=r"^https?://", description="the provider's address")


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


@contextlib.contextmanager
def _make(settings: Mapping[str, Any], endpoint: str | None) -> Iterator[WebSearchTool]:
    from tir.websearch.modes import make_web_search  # a client that whoever reads the configuration does without

    with make_web_search(settings) as web:
        yield WebSearchTool(web, top_k=settings["top_k"], output_chars=settings["output_chars"], layout=settings["layout"])


def _files(settings: Mapping[str, Any]) -> list[str]:
    """A cassette that is replayed; one that still records decides nothing."""
    return [settings["cassette"]] if settings["mode"] == "replay" else []


TOOL = ToolKind("search", WebSearchToolConfig, _make, files=_files)
