"""Tools of a rollout: a Python interpreter, a search over the index, and a search of the web."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tir.tools.base import Tool

# The tag that calls each tool. A task's route names tools; two that answer the same tag cannot share one.
TAGS = {"python": "python", "search": "search", "web_search": "search"}


@contextlib.contextmanager
def make_tools(names: Sequence[str], settings: dict[str, Any], endpoint: str | None) -> Iterator[dict[str, Tool]]:
    """The named tools by name, ended on exit.

    Args:
        names: which of `TAGS`.
        settings: a `tir.config.Tools` as JSON.
        endpoint: address of the retrieval server, needed by `search`.
    """
    tools: dict[str, Tool] = {}
    with contextlib.ExitStack() as stack:
        if "python" in names:
            from tir.tools.python_tool import PythonTool

            tools["python"] = stack.enter_context(PythonTool(**settings["python"]))
            tools["python"].start()  # a machine whose sandbox is too weak is refused now, not at the first call
        if "search" in names:
            from tir.retrieval.client import SearchClient
            from tir.tools.search_tool import SearchTool

            search = dict(settings["search"])
            output_chars = search.pop("output_chars")
            tools["search"] = SearchTool(SearchClient(endpoint, **search), output_chars=output_chars)
        if "web_search" in names:
            from tir.tools.web_search_tool import WebSearchTool
            from tir.websearch import make_web_search

            web = settings["web_search"]
            tools["web_search"] = WebSearchTool(stack.enter_context(make_web_search(web)), top_k=web["top_k"],
                                                output_chars=web["output_chars"], layout=web["layout"])
        yield tools


def by_tag(tools: Mapping[str, Tool], route: Sequence[str]) -> dict[str, Tool]:
    """The tools of one task's route, by the tag that calls them."""
    return {TAGS[name]: tools[name] for name in route}
