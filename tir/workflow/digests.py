"""Digest of the code that a script runs, for the parameters of its rule.

Snakemake detects an edit of a rule, but not of the modules that its script imports. So the parameters of a rule include
one digest of its script and of all local modules that the script imports. These files are not inputs of the rule,
because Snakemake keeps an object per job and input: forty more inputs per job make planning ten thousand jobs three
times slower. Nothing here imports Snakemake, torch or pandas.

A digest covers the code that runs:

- Syntax trees without docstrings: an edit of comments, docstrings or formatting leaves the digest unchanged.
- No configuration models: neither `tir/config/` and `tir/common/schema.py` nor classes derived from `Model` elsewhere
  (settings of tools). The values of these models are among the rule's parameters already.

Trees are serialised here, without empty fields, and equal in Python 3.11, 3.12 and 3.13. `ast.dump` gives different
text in each of the three, and `ast.unparse` writes f-strings differently since 3.12.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tir.common.records import digest

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ("aspo", "tir", "scripts")
CONFIGURATION = ("tir.config", "tir.common.schema")  # not in a digest: the values are among the rule's parameters
_SKIPPED_FIELDS = ("ctx", "kind", "type_comment", "type_ignores")  # implied by other fields, or comments
_DOTTED = re.compile(rf"(?:pkg://)?((?:{'|'.join(LOCAL)})(?:\.\w+)+)")  # Hydra writes a module as pkg://NAME


def code(*entries: str) -> list[str]:
    """Files of the named modules and of all local modules that they import, relative to the repository root, sorted.

    Args:
        entries: dotted names, e.g. `scripts.train_sft`. A dotted name in a string counts as an import: the module
            "tir.rl.entry" is started as a process, verl loads "tir.rl.weights.ServerAdapter" by name.
    """
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or file in found:
            continue
        found.add(file)
        waiting += _read(file).imports
        package = name.rpartition(".")[0]
        if package:
            waiting.append(package)
    return sorted(found)


@cache
def code_digest(*entries: str) -> str:
    """First name and digest of the named modules and their local imports: `scripts.train_sft 0f3a...`.

    Computed once per process: a job records the code as it was when Snakemake started. If a file is edited while the
    workflow runs, the next run repeats the jobs that use it.
    """
    return f"{entries[0]} {digest({file: _read(file).tree_digest for file in code(*entries)})}"


@cache
def _file(name: str) -> str | None:
    """File of a local module; None for a foreign or configuration module, or a name inside a module."""
    if name.partition(".")[0] not in LOCAL or any(f"{name}.".startswith(f"{each}.") for each in CONFIGURATION):
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate.relative_to(ROOT).as_posix()
    return None


class _Module(NamedTuple):
    """The dotted names that a file imports, and the digest of its syntax tree."""

    imports: tuple[str, ...]
    tree_digest: str


@cache
def _read(file: str) -> _Module:
    imports: list[str] = []
    tree = _as_json(ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=file), imports)
    package = Path(file).parent.parts
    return _Module(tuple(_absolute(name, package) for name in imports), digest(tree))


def _absolute(name: str, package: tuple[str, ...]) -> str:
    """The name of a module that `from ..a import b` names `..a.b`, in a package."""
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    return ".".join([*package[: len(package) - dots + 1], *filter(None, [name[dots:]])])


def _as_json(part: Any, imports: list[str]) -> Any:
    """A part of a syntax tree as a JSON value, without positions, empty fields, docstrings and configuration models.

    Its imports are added to `imports`; one pass over a tree takes half of the time of two.
    """
    if isinstance(part, ast.AST):
        if isinstance(part, _IMPORTING):
            imports += _imports(part)
        fields = {}
        for name in part._fields:
            value = getattr(part, name, None)
            if name == "body" and isinstance(value, list):
                value = [each for each in value if not (_is_docstring(each) or _is_model(each))]
            if value is not None and value != [] and name not in _SKIPPED_FIELDS:
                fields[name] = _as_json(value, imports)
        return [type(part).__name__, fields]
    if isinstance(part, list):
        return [_as_json(each, imports) for each in part]
    return repr(part)


_IMPORTING = (ast.Import, ast.ImportFrom, ast.Constant)


def _imports(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports, or a string that is a dotted name.

    `from a import b` yields `a` and `a.b`, and so does the string "a.b": `b` may be a module or a name inside `a`.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (module, *(f"{module}.{alias.name}" if node.module else module + alias.name for alias in node.names))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (name := _DOTTED.fullmatch(node.value)):
        yield from (name[1], name[1].rpartition(".")[0])


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)


def _is_model(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ClassDef) and any(getattr(base, "id", "") == "Model" for base in statement.bases)
