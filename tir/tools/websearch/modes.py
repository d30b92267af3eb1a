"""The source of web search answers, by configured mode.

replay   only the cassette: needs no network; a query that is not recorded is an error
record   the cassette; queries it lacks are sent to the provider and recorded
live     only the provider; answers are not recorded
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tir.common.errors import ConfigError
from tir.common.keys import SEARCH, read_key
from tir.tools.websearch.bing import WebSearch
from tir.tools.websearch.cassette import Cassette, CassetteSearch
from tir.tools.websearch.tavily import Tavily

if TYPE_CHECKING:
    from tir.tools.web_search_tool import WebSearchToolConfig


@contextlib.contextmanager
def make_web_search(settings: WebSearchToolConfig) -> Iterator[WebSearch]:
    """The configured search, closed on exit.

    Raises `ConfigError` if the mode needs a key and none is set, `DataError` if there is no cassette to replay.
    """
    mode, parameters = settings.mode, {"max_results": settings.top_k, "search_depth": settings.depth}
    provider = None
    if mode != "replay":
        key = read_key(SEARCH)
        if not key:
            raise ConfigError(
                "no key for the web search",
                where=f"${SEARCH}",
                why=f"tools.web_search.mode is {mode}",
                remedy=f"export {SEARCH}=...  (in a container: export APPTAINERENV_{SEARCH}=...)",
            )
        provider = Tavily(
            key,
            parameters,
            url=settings.url,
            timeout_s=settings.timeout_s,
            retry_budget_s=settings.retry_budget_s,
            concurrency=settings.concurrency,
        )
    if mode == "live":
        yield provider
        return
    with Cassette(settings.cassette, create=mode == "record") as cassette:
        yield CassetteSearch(cassette, settings.provider, parameters, provider)
