"""Where the answers of a web search come from, by the mode that is configured.

    replay   the cassette alone: re-scores without a network, and says which query it lacks
    record   the cassette first; what it lacks is asked of the provider and recorded
    live     the provider, nothing kept
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tir.errors import ConfigError
from tir.websearch.bing import WebSearch
from tir.websearch.cassette import Cassette, CassetteSearch
from tir.websearch.tavily import KEY_VARIABLE, Tavily


@contextlib.contextmanager
def make_web_search(settings: Mapping[str, Any]) -> Iterator[WebSearch]:
    """The configured search, closed on exit.

    Args:
        settings: a `tir.tools.web_search_tool.WebSearchToolConfig` as JSON.

    Raises `ConfigError` without a key where one is needed, `DataError` without a cassette to replay.
    """
    mode, parameters = settings["mode"], {"max_results": settings["top_k"], "search_depth": settings["depth"]}
    provider = None
    if mode != "replay":
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise ConfigError("no key for the web search", where=f"${KEY_VARIABLE}", why=f"tools.web_search.mode is {mode}",
                              remedy=f"export {KEY_VARIABLE}=...  (in a container: export APPTAINERENV_{KEY_VARIABLE}=...)")
        given = {name: settings[name] for name in ("url", "timeout_s", "retry_budget_s", "concurrency") if name in settings}
        provider = Tavily(key, parameters, **given)
    if mode == "live":
        yield provider
        return
    with Cassette(settings["cassette"], create=mode == "record") as cassette:
        yield CassetteSearch(cassette, settings["provider"], parameters, provider)
