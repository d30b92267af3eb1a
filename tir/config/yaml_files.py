"""The YAML files of a configuration: their content, and keys that a file has twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tir.common.errors import ConfigError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


def content(file: str) -> Any:
    """The value in a file; None if it cannot be read."""
    try:
        return yaml.load(Path(file).read_text(encoding="utf-8"), _Loader)
    except (OSError, yaml.YAMLError):
        return None


def refuse_repeated_keys(files: Iterable[str]) -> None:
    """Raise `ConfigError` if a file has a key twice; YAML's parsers silently keep the last one."""
    found = [(file, *place) for file in files for place in repeated_keys(_text(file))]
    if found:
        file, key, first, second = found[0]
        raise ConfigError(
            "a key is written twice",
            where=f"{file}:{second}",
            why="; ".join(f"{file}: {key} in lines {first} and {second}" for file, key, first, second in found)
            + "; only the last would count",
            remedy=f"sed -n '{first}p;{second}p' {file}  # shows both; delete one, or merge what is below them",
        )


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # Snakemake, which has read the files before, says so


def repeated_keys(text: str) -> Iterator[tuple[str, int, int]]:
    """Each key that a mapping in a YAML text has twice: the path to it, and both line numbers."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.YAMLError:
        return
    nodes: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    for path, node in nodes:  # the loop appends to this list
        if id(node) in seen:  # an alias of a mapping that was read before
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += [(f"{path}{number}.", each) for number, each in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[Any, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode):
                    read = key.value  # of `<<` and of invalid keys
                    with contextlib.suppress(yaml.YAMLError, ValueError):
                        read = loader.construct_object(key)  # `yes` and `true` are the same key, as are 1 and 0x1
                    if read in lines:
                        yield f"{path}{key.value}", lines[read], line
                    lines[read] = line
                    nodes.append((f"{path}{key.value}.", value))
