"""Text of configuration errors: file and key, the reason, the nearest valid name, and the YAML to paste."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tir.config.command_line import OPTION
from tir.config.faults import Fault, faults_of, value_at
from tir.config.yaml_files import content


def render_errors(
    error: ValidationError, root: type[BaseModel], given: Any, files: list[str], stated: Mapping[str, Any], *at: str
) -> str:
    """All faults of a validation as text, one block per fault.

    Args:
        error: the error of validating `given` with the model `root`.
        root: the model.
        given: the merged configuration.
        files: the YAML files that were merged, in order.
        stated: values of `--config`, which override the files.
        at: keys above `given` in the files, if it is only a section of them.
    """
    faults = faults_of(error, root, given)
    faults = [fault for fault in faults if not _inherited(fault, given)] or faults
    return render_faults([fault.below(*at) for fault in faults], files, stated)


def render_faults(faults: list[Fault], files: list[str], stated: Mapping[str, Any]) -> str:
    """Faults of the whole configuration as text."""
    count = f"{len(faults)} faults in the configuration" if len(faults) > 1 else "a fault in the configuration"
    return "\n\n".join([count, *(_block(fault, files, stated) for fault in faults)])


def _inherited(fault: Fault, given: Any) -> bool:
    """Whether the fault is in a key that an arm inherits; it is reported for the arm that sets the key."""
    path = fault.path
    if len(path) < 3 or path[0] != "arms":
        return False
    arm = value_at(given, path[:2])
    return isinstance(arm, Mapping) and "base" in arm and path[2] not in arm


def _block(fault: Fault, files: list[str], stated: Mapping[str, Any]) -> str:
    key = ".".join(map(str, fault.path)) or "(whole file)"
    source = _source_of(fault.path, files, stated)
    text = f"{source}: {key}: {fault.reason[:1].lower()}{fault.reason[1:]}"
    if fault.near:
        text += f"; did you mean `{fault.near}`?"
    if fault.paste is None:
        return text
    path, value = fault.paste
    if source == OPTION:  # the whole list, because it replaces the one of the files
        path, value = _in_its_list(path, value, stated)
    return f"{text}\n  write:\n{_snippet(_nested(path, value), inline=source == OPTION)}"


def _in_its_list(path: tuple, value: Any, stated: Mapping[str, Any]) -> tuple[tuple, Any]:
    """The path of the first list on a path, and that list with the value in it."""
    depth = next((depth for depth, part in enumerate(path) if isinstance(part, int)), None)
    items = None if depth is None else value_at(stated, path[:depth])
    if not isinstance(items, list):
        return path, value
    items = copy.deepcopy(items)
    *above, last = path[depth:]
    place = value_at(items, tuple(above)) if above else items
    place[last] = value
    return path[:depth], items


def _snippet(value: dict[str, Any], *, inline: bool) -> str:
    """YAML to paste into a file, or with `inline` an argument of `--config`."""
    if inline:
        key, _, given = (
            yaml.safe_dump(
                _with_numbers(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
            )
            .strip()[1:-1]
            .partition(": ")
        )
        return f"    {OPTION} {key}={shlex.quote(given)}"
    lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip().splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _with_numbers(value: Any) -> Any:
    """The value with decimals as numbers. Snakemake parses those inside `--config` as text, which YAML would quote."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"-?\d+\.\d+", value) else value


def _nested(path: tuple, value: Any) -> Any:
    """The value, nested in its keys; in a list only the faulty item, because pasted keys would replace the list."""
    for part in reversed(path):
        if isinstance(part, int):
            return [value] if part is path[-1] else value
        value = {part: value}
    return value


def _source_of(path: tuple, files: list[str], stated: Mapping[str, Any]) -> str:
    """The file (or `--config`) that sets the longest part of a path; if several do, the last one."""
    best, depth = (files[0] if files else "configuration"), 0
    for name, value in [*((file, content(file)) for file in files), (OPTION, stated)]:
        reached = _reached(path, value)
        if reached and reached >= depth:
            best, depth = name, reached
    return best


def _reached(path: tuple, value: Any) -> int:
    """Number of leading parts of a path that exist in a value."""
    for reached, part in enumerate(path):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return reached
    return len(path)
