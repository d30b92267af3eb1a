"""The web search tool: takes a query, returns titles and snippets (upstream `deep_search`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from tir.common.schema import Model, operational
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind
from tir.tools.websearch.bing import WebSearch, pages, render_pages


class WebSearchToolConfig(Model):
    """Settings of the web search tool. The provider's key is read from the environment variable TAVILY_API_KEY."""

    provider: Literal["tavily"] = Field("tavily", description="the web search service")
    mode: Literal["replay", "record", "live"] = Field(
        "replay",
        description="replay: only the cassette, no network; record: the cassette, and the provider for queries it "
        "lacks; live: only the provider",
    )
    cassette: str = Field(
        "cache/web.sqlite", description="file of recorded answers, keyed by query, provider and parameters"
    )
    top_k: int = Field(10, ge=1, le=20, description="results per query; upstream uses 10")
    depth: Literal["basic", "advanced"] = Field(
        "basic", description="Tavily's search_depth; advanced costs twice as much"
    )
    layout: Literal["titled", "snippets"] = Field(
        "titled",
        description="titled: each title with its snippet, results separated by a blank line; snippets: snippets only, "
        "without separators, as upstream",
    )
    output_chars: int | None = Field(
        8000, ge=16, le=100_000, description="longest payload in characters; null: no limit"
    )
    timeout_s: float = operational(20.0, gt=0, le=600, description="longest wait for one answer in seconds")
    retry_budget_s: float = operational(
        120.0,
        ge=0,
        le=3600,
        description="a query that still fails or is rate-limited after this many seconds of retries stops the stage",
    )
    concurrency: int = operational(8, ge=1, le=256, description="largest number of requests in flight")
    url: str = Field("https://api.tavily.com", pattern=r"^https?://", description="address of the provider")


class WebSearchTool:
    """Answers the `<search>` tag from the web.

    Args:
        web: any `WebSearch`; `call` raises its errors.
        top_k: results shown (upstream 10).
        output_chars: longest payload in characters; None: no limit.
        layout: see `render_pages`.
    """

    def __init__(
        self,
        web: WebSearch,
        *,
        top_k: int,
        output_chars: int | None,
        layout: Literal["titled", "snippets"],
    ):
        self.web, self.top_k, self.output_chars, self.layout = web, top_k, output_chars, layout

    async def call(self, body: str) -> ToolResult:
        """Search; a blank query is a fault of the model and returns "invalid query"."""
        started = time.monotonic()
        if not body.strip():
            return ToolResult("invalid query", "error", 0.0)
        results = pages(await self.web.search(body.strip()))[: self.top_k]
        return ToolResult(cap(render_pages(results, self.layout), self.output_chars), "ok", time.monotonic() - started)


@contextlib.contextmanager
def _make(settings: WebSearchToolConfig, endpoint: str | None) -> Iterator[WebSearchTool]:
    from tir.tools.websearch.modes import make_web_search  # here: reading a configuration must not import httpx

    with make_web_search(settings) as web:
        yield WebSearchTool(web, top_k=settings.top_k, output_chars=settings.output_chars, layout=settings.layout)


def _files(settings: WebSearchToolConfig) -> list[str]:
    """The cassette in mode `replay`; in other modes its present content does not determine the answers."""
    return [settings.cassette] if settings.mode == "replay" else []


TOOL = ToolKind("search", WebSearchToolConfig, _make, files=_files)
