"""What each job of the workflow depends on, stated a second time: which jobs must run, settings, code and commands.

`support/stages.py` and `support/study.py` state the jobs. The sources are the documentation and the descriptions in
config/schema.json. Nothing here uses the workflow's rules, digests, parameters or records. Its loaded configuration is
used, with defaults, presets and inheritance filled in.
"""

import ast
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from support.configuration import overlaid
from support.paths import ROOT

from tir.config.experiment import load

FILES = ("config.yaml", "profiles/laptop/tiny.yaml")
SCHEMA = json.loads((ROOT / "config/schema.json").read_text())


class Job(NamedTuple):
    """A job: its name as in a plan (`rule:wildcard,wildcard`), and everything that its outputs are made of."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made_of: str


def planned(before: Mapping[str, Job], after: Mapping[str, Job], deleted: Iterable[str], foreign: Iterable[str]):
    """Names of the jobs that must run.

    Args:
        before: the jobs that have run.
        after: the jobs of the edited workflow.
        deleted: outputs that have been deleted since.
        foreign: outputs whose content is not what their job wrote.
    """
    made = {path: job.made_of for job in before.values() for path in job.outputs}
    maker = {path: job.name for job in after.values() for path in job.outputs}
    absent = {path for path in maker if path not in made} | set(deleted)
    readers = defaultdict(set)
    for job in after.values():
        for path in job.inputs:
            readers[path].add(job.name)
    waiting = {maker[path] for path in after["all"].inputs if path in absent}
    for job in after.values():
        if any(path in foreign or made.get(path, job.made_of) != job.made_of for path in job.outputs):
            waiting.add(job.name)
    run = set()
    while waiting:
        run.add(name := waiting.pop())
        needed = {maker[path] for path in after[name].inputs if path in absent and path in maker}
        spoiled = {reader for path in after[name].outputs for reader in readers[path]}
        waiting |= (needed | spoiled) - run
    return run


# --- the configuration ----------------------------------------------------------------------------------------------


def configuration(directory: Path, stated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All settings of a workflow as plain values. Raises `ConfigError` if they are not valid."""
    merged = overlaid(*(yaml.safe_load((directory / file).read_text()) for file in FILES), stated or {})
    loaded = load(merged, [str(directory / file) for file in FILES])
    return loaded.model_dump(mode="json", by_alias=True)


def resolved(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives that a part of the schema allows, with references replaced."""
    named = SCHEMA["$defs"]
    return [named[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in part.get("anyOf", [part])]


def inside(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The schema of a key of a mapping."""
    others = [*part.get("patternProperties", {}).values(), part.get("additionalProperties")]
    return part.get("properties", {}).get(key) or next((each for each in others if isinstance(each, dict)), {})


def results_only(value: Any, schema: Mapping[str, Any] = SCHEMA) -> Any:
    """A value without the keys that the schema marks as changing no result."""
    for part in resolved(schema):
        if isinstance(value, dict) and part.get("type") == "object":
            below = {key: inside(part, key) for key in value}
            return {
                key: results_only(each, below[key]) for key, each in value.items() if not below[key].get("operational")
            }
    return value


def without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


# --- the code -------------------------------------------------------------------------------------------------------


class Sources(NamedTuple):
    """The modules of a workflow: their texts by file. `version` is equal for equal texts."""

    texts: Mapping[str, str]
    version: str

    def __hash__(self) -> int:
        return hash(self.version)

    def __eq__(self, other: Any) -> bool:
        return self.version == other.version


def sources(directory: Path) -> Sources:
    paths = sorted(path for part in ("aspo", "scripts", "tir") for path in (directory / part).rglob("*.py"))
    texts = {path.relative_to(directory).as_posix(): sys.intern(path.read_text()) for path in paths}
    return Sources(texts, digest(repr(texts).encode()))


def digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@cache
def code_of(modules: Sources, *entries: str) -> dict[str, str]:
    """What the code says that some modules run: the meaning of each file."""
    return {file: meaning(modules.texts[file]) for file in sorted(reached(modules.texts, *entries))}


@cache
def meaning(source: str) -> str:
    """A digest of a module without comments, docstrings and formatting, and without the models of settings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [
                each
                for each in node.body
                if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
                and not (isinstance(each, ast.ClassDef) and "Model" in map(ast.unparse, each.bases))
            ]
    return digest(ast.dump(tree).encode())


@cache
def mentioned(source: str) -> set[str]:
    """Dotted names that a module imports or contains as strings."""
    source = re.sub(r'"""(?:[^"\\]|\\.|"(?!""))*"""', "", source)
    names = set(re.findall(r"""["'](?:pkg://)?((?:aspo|tir|scripts)\.[\w.]+)["']""", source))
    for module, listed in re.findall(r"^[ \t]*from ([\w.]+) import (\([^)]*\)|.*)", source, re.M):
        names |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", listed))}
    for listed in re.findall(r"^[ \t]*import (.*)", source, re.M):
        names |= set(re.findall(r"[\w.]+", listed))
    return names


def reached(texts: Mapping[str, str], *entries: str) -> set[str]:
    """Files of the named modules, their packages and all their imports, without configuration modules."""
    found: set[str] = set()
    waiting, seen = set(entries), set()
    while waiting:
        seen.add(name := waiting.pop())
        parts = [] if re.match(r"tir\.(config|common\.schema)\b", name) else name.split(".")
        for depth in range(len(parts)):
            for end in (".py", "/__init__.py"):
                file = "/".join(parts[: depth + 1]) + end
                if file in texts and file not in found:
                    found.add(file)
                    waiting |= mentioned(texts[file]) - seen
    return found


def commands(directory: Path) -> dict[tuple[str, str], Any]:
    """The shell commands by file of rules and script, as the rules state them: tokens, without comments and layout."""
    found = defaultdict(list)
    for path in sorted((directory / "rules").glob("*.smk")):
        for _, command in re.findall(r"^( *)shell:\n((?:\1 +.*\n)+)", path.read_text(), re.M):
            tokens = re.findall(r'"[^"\n]*"|\w+|#.*', command)
            for script in re.findall(r"-m scripts\.(\w+)", command):
                found[path.stem, script].append([token for token in tokens if token[0] != "#"])
    return found
