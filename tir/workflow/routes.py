"""Settings, input files and modules of the tools of given tasks, for the rules that call these tools.

Edits of other tools' settings and code rerun nothing.
"""

from __future__ import annotations

from typing import Any

from tir.config.params import plain
from tir.config.tools import KINDS, Tools
from tir.tools import registry


def route(tools: Tools, *tasks: str) -> list[str]:
    """Names of the tools that the tasks use, sorted."""
    return sorted({name for task in tasks for name in tools.routes.get(task, [])})


def settings(tools: Tools, *tasks: str) -> dict[str, Any]:
    """The section `tools` as JSON, reduced to the routes of these tasks and the settings of their tools."""
    unused = set(KINDS) - set(route(tools, *tasks))
    routes = {task: tools.routes.get(task, []) for task in tasks}
    return {name: value for name, value in plain(tools).items() if name not in unused} | {"routes": routes}


def files(tools: Tools, *tasks: str) -> list[str]:
    """Files that determine the answers of the tools."""
    return registry.files_of(route(tools, *tasks), tools, "index")


def modules(tools: Tools, *tasks: str) -> list[str]:
    """Dotted names of the tools' modules."""
    return registry.modules(route(tools, *tasks))


def asks_retrieval(tools: Tools, *tasks: str) -> bool:
    """Whether one of the tools queries the retrieval server."""
    return registry.asks_retrieval(route(tools, *tasks))
