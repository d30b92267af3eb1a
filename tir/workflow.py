"""What the rules need and Snakemake does not give: the code a script really runs, and parameters that compare well.

Snakemake compares a rule's own text; it does not see the modules a script imports, and it takes reordered YAML keys
for a change. So a rule has among its parameters one digest of its script and of all that the script imports locally,
and each sub-configuration as canonical JSON. A digest and not the files themselves as inputs: Snakemake keeps an object
per job and input, and forty files each make a plan of ten thousand jobs three times as slow. Nothing here imports
Snakemake, torch or pandas.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tir.records import canonical_json, digest, file_digest

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ("aspo", "tir", "scripts")
_DOTTED = re.compile(rf"(?:pkg://)?((?:{'|'.join(LOCAL)})(?:\.\w+)+)")  # pkg:// is Hydra's


def code(*entries: str) -> list[str]:
    """Files of the named modules and all local modules they import, as paths relative to the repository root.

    Args:
        entries: dotted names, e.g. `scripts.train_sft`. A module that a file names in a string ("tir.rl.entry": started as
            a process; "tir.rl.weights.ServerAdapter": in a registry of verl) counts as imported by it.
    """
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or file in found:
            continue
        found.add(file)
        waiting += _imports(file)
        package = name.rpartition(".")[0]
        if package:
            waiting.append(package)
    return sorted(found)


@cache
def code_digest(*entries: str) -> str:
    """What the named modules and their local imports say, in a few characters: `scripts.train_sft 0f3a...`.

    Computed once per process, from contents alone: a job records the code its workflow was started with, so that a file
    edited during a run makes the job run again.
    """
    return f"{entries[0]} {digest({file: _content(file) for file in code(*entries)})}"


@cache
def _content(file: str) -> str:
    return file_digest(ROOT / file)


@cache
def _file(name: str) -> str | None:
    """The file of a local module, or None (not local, or a name inside a module)."""
    if name.partition(".")[0] not in LOCAL:
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate.relative_to(ROOT).as_posix()
    return None


@cache
def _imports(file: str) -> tuple[str, ...]:
    """Dotted names a file imports anywhere, also inside functions, or has as a string.

    `from a import b` yields `a` and `a.b`, "a.b" likewise: the last part may be a name inside the module.
    """
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=file)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (name := _DOTTED.fullmatch(node.value)):
            names += [name[1], name[1].rpartition(".")[0]]
    return tuple(name for name in names if name.partition(".")[0] in LOCAL)


def params(*parts: BaseModel | dict[str, Any], **named: Any) -> str:
    """What decides a rule's results: sub-configurations as one canonical JSON object.

    Models contribute their fields but the operational ones, keywords name values.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= plain(part)
    return canonical_json(merged | {name: plain(value) for name, value in named.items()})


def operation(*parts: BaseModel, **named: BaseModel) -> str:
    """The operational fields of the same models, for a rule's command and not its parameters: a longer time-out makes
    nothing again."""
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= part.model_dump(mode="json", context={"operational": True})
    return canonical_json(merged | {name: part.model_dump(mode="json", context={"operational": True}) for name, part in named.items()})


def plain(value: Any) -> Any:
    """A JSON value of models, mappings and sequences."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", context={"operational": False})
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
