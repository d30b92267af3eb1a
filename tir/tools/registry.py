"""The registry of tools: each module `tir/tools/NAME_tool.py` describes its tool in a `TOOL`.

To add a tool, add such a module and its test. The configuration then accepts its settings under `tools.NAME`, and its
name in the routes of tasks under `tools.routes`. Modules are imported by name, so a tool's code affects only the
results of tasks that use the tool; a code digest must include `modules` of the tools in use.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tir.common.schema import Model
from tir.tools.base import Tool

_SUFFIX = "_tool"


def _no_files(settings: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class ToolKind:
    """The description of a tool in its module.

    Attributes:
        tag: the protocol tag that calls the tool; a route may name at most one tool per tag.
        settings: the pydantic model of the tool's section of the configuration.
        make: context manager from (settings, address of the retrieval server or None) to the tool.
        retrieval: whether the tool queries the retrieval server.
        files: function from settings to the files that determine the tool's answers; a rule makes these files or the
            user provides them.
    """

    tag: Literal["python", "search"]
    settings: type[Model]
    make: Callable[[Any, str | None], AbstractContextManager[Tool]]
    retrieval: bool = False
    files: Callable[[Any], list[str]] = _no_files


def modules(names: Iterable[str]) -> list[str]:
    """Dotted names of the tools' modules."""
    return [f"{__package__}.{name}{_SUFFIX}" for name in sorted(set(names))]


@cache
def kind(name: str) -> ToolKind:
    """The description of a tool, by its name in the configuration."""
    return importlib.import_module(*modules([name])).TOOL


def kinds() -> dict[str, ToolKind]:
    """Descriptions of all tools, by name."""
    files = Path(__file__).parent.glob(f"*{_SUFFIX}.py")
    return {name: kind(name) for name in sorted(file.stem.removesuffix(_SUFFIX) for file in files)}


@contextlib.contextmanager
def make_tools(names: Sequence[str], settings: Model, endpoint: str | None) -> Iterator[dict[str, Tool]]:
    """The tools with the given names, by name; they are closed on exit.

    Args:
        names: tools to make.
        settings: a `tir.config.tools.Tools`.
        endpoint: address of the retrieval server, for tools that query it.
    """
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(kind(name).make(getattr(settings, name), endpoint)) for name in names}


def by_tag(tools: Mapping[str, Tool], route: Sequence[str]) -> dict[str, Tool]:
    """The tools of a route, by the tag that calls them."""
    return {kind(name).tag: tools[name] for name in route}


def files_of(route: Sequence[str], settings: Model, index: str | Path) -> list[str]:
    """Files that determine the answers of a route's tools.

    Args:
        settings: a `tir.config.tools.Tools`.
        index: directory of the index that the retrieval server serves.
    """
    index_files = [f"{index}/manifest.json"] if asks_retrieval(route) else []
    return index_files + [file for name in route for file in kind(name).files(getattr(settings, name))]


def asks_retrieval(route: Iterable[str]) -> bool:
    """Whether a tool of the route queries the retrieval server."""
    return any(kind(name).retrieval for name in route)
