"""Tools of a rollout: a Python interpreter and a search engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tir.tools.base import Tool


@contextlib.contextmanager
def make_tools(names: Sequence[str], settings: dict[str, Any], endpoint: str | None) -> Iterator[dict[str, Tool]]:
    """The named tools, ended on exit.

    Args:
        names: which of `python`, `search`.
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

            search = settings["search"]
            tools["search"] = SearchTool(SearchClient(endpoint, top_k=search["top_k"], timeout_s=search["timeout_s"]),
                                         output_chars=search["output_chars"])
        yield tools
