"""Which tools there are: each module `tir/tools/NAME_tool.py` says what it is in a `TOOL`.

A new tool is such a module and its test. Its settings then stand under `tools.NAME` of the configuration, and a task whose
route under `tools.routes` names it calls it. Modules are imported by name, so that a tool's code is part of what decides
the results of those tasks alone; whoever records code adds `modules` of the tools in use.
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

from tir.schema import Model
from tir.tools.base import Tool

_SUFFIX = "_tool"


def _no_files(settings: Mapping[str, Any]) -> list[str]:
    return []


@dataclass(frozen=True)
class ToolKind:
    """What a tool's module says of it.

    Attributes:
        tag: the tag that calls it, one of the protocol's; of the tools with one tag a task's route can name one.
        settings: the model of its section of the configuration.
        make: its settings as JSON, and the retrieval server's address or None -> the tool, ended on exit.
        retrieval: whether it asks the retrieval server.
        files: its settings as JSON -> files that decide its answers, made by a rule or brought by the user.
    """

    tag: Literal["python", "search"]
    settings: type[Model]
    make: Callable[[Mapping[str, Any], str | None], AbstractContextManager[Tool]]
    retrieval: bool = False
    files: Callable[[Mapping[str, Any]], list[str]] = _no_files


def modules(names: Iterable[str]) -> list[str]:
    """Dotted names of the modules of tools."""
    return [f"{__package__}.{name}{_SUFFIX}" for name in sorted(set(names))]


@cache
def kind(name: str) -> ToolKind:
    """A tool by its name in the configuration."""
    return importlib.import_module(*modules([name])).TOOL


def kinds() -> dict[str, ToolKind]:
    """All tools there are, by name."""
    files = Path(__file__).parent.glob(f"*{_SUFFIX}.py")
    return {name: kind(name) for name in sorted(file.stem.removesuffix(_SUFFIX) for file in files)}


@contextlib.contextmanager
def make_tools(names: Sequence[str], settings: Mapping[str, Any], endpoint: str | None) -> Iterator[dict[str, Tool]]:
    """The named tools by name, ended on exit.

    Args:
        names: tools to make.
        settings: a `tir.config.Tools` as JSON.
        endpoint: address of the retrieval server, for tools that ask it.
    """
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(kind(name).make(settings[name], endpoint)) for name in names}


def by_tag(tools: Mapping[str, Tool], route: Sequence[str]) -> dict[str, Tool]:
    """The tools of one task's route, by the tag that calls them."""
    return {kind(name).tag: tools[name] for name in route}


def files_of(route: Sequence[str], settings: Mapping[str, Any], index: str | Path) -> list[str]:
    """Files that decide what the tools of a route answer.

    Args:
        settings: a `tir.config.Tools` as JSON.
        index: directory of the index that the retrieval server serves.
    """
    searched = [f"{index}/manifest.json"] if asks_retrieval(route) else []
    return searched + [file for name in route for file in kind(name).files(settings[name])]


def asks_retrieval(route: Iterable[str]) -> bool:
    """Whether a tool of the route asks the retrieval server."""
    return any(kind(name).retrieval for name in route)
