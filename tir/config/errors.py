"""Configuration errors a person can act on: file:key, the reason, the nearest valid name, and the YAML to paste."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from tir.config.model import NAMES


_KEY = "[key]"  # pydantic's last part of a path where the name itself is at fault


def render_errors(error: ValidationError, root: type[BaseModel], merged: Mapping[str, Any], files: list[str]) -> str:
    """All faults of a validation as one text, one block per fault."""
    faults = [fault for fault in error.errors() if not _inherited(fault, merged)] or error.errors()
    blocks = [_render(fault, root, merged, files) for fault in faults]
    count = f"{len(blocks)} faults in the configuration" if len(blocks) > 1 else "a fault in the configuration"
    return count + "\n\n" + "\n\n".join(blocks)


def _inherited(fault: dict, merged: Mapping[str, Any]) -> bool:
    """Whether an arm only inherits the faulty key; the arm that states it reports it."""
    path = fault["loc"]
    if len(path) < 3 or path[0] != "arms" or path[2] == _KEY:
        return False
    arm = _value(merged, path[:2])
    return isinstance(arm, Mapping) and "base" in arm and path[2] not in arm


def _render(fault: dict, root: type[BaseModel], merged: Mapping[str, Any], files: list[str]) -> str:
    path = fault["loc"]
    if path[-1:] == (_KEY,):
        return _render_key(fault, path[:-1], merged, files)
    cause = fault.get("ctx", {}).get("error")
    if hasattr(cause, "base") and hasattr(cause, "known"):  # an arm's unknown base
        path = ("arms", cause.arm, "base")
        near = _nearest(cause.base, cause.known)
        return _block(path, files, f"{cause.base!r} is not an arm", near, near or cause.known[0])
    if fault["type"] == "extra_forbidden":
        known = _keys(root, path[:-1])
        near = _nearest(str(path[-1]), known)
        reason = "unknown key" if near else f"unknown key; known here: {', '.join(sorted(known))}"
        return _block(path, files, reason, near, _value(merged, path), (*path[:-1], near) if near else None)
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return _block(path, files, "missing key", None, _example(root, path), path)
    value = fault.get("input")
    shown = f"{value!r}: {reason}" if path and not isinstance(value, Mapping) else reason
    choices = _choices(fault)
    near = _nearest(str(value), choices) if choices else None
    return _block(path, files, shown[0].lower() + shown[1:], near, near or _example(root, path), path if path else None)


def _render_key(fault: dict, path: tuple, merged: Mapping[str, Any], files: list[str]) -> str:
    """A mapping has a name that it may not have: say which it may, and write its own value under the nearest."""
    name, reason, near = str(fault["input"]), fault["msg"], _nearest(str(fault["input"]), _choices(fault))
    pattern = fault.get("ctx", {}).get("pattern")
    if pattern:
        plain = re.sub(r"\W+", "_", name) if "." not in pattern else re.sub(r"[^A-Za-z0-9_.]+", "_", name)
        reason, near = f"a name is {NAMES.get(pattern, pattern)}", plain if re.match(pattern, plain) else None
    elif fault["type"] == "string_type":
        reason, near = "a name is text; put it in quotes", name
    if pattern and near:
        reason += f"; write `{near}`"
    corrected = (*path[:-1], near) if near else None
    return _block(path, files, reason[0].lower() + reason[1:], None if pattern else near, _value(merged, path), corrected)


def _block(path: tuple, files: list[str], reason: str, near: str | None, value: Any, corrected: tuple | None = ()) -> str:
    key = ".".join(map(str, path)) or "(whole file)"
    text = f"{_file_of(path, files)}: {key}: {reason}"
    if near:
        text += f"; did you mean `{near}`?"
    corrected = path if corrected == () else corrected
    if not corrected or value is None:
        return text
    nested: Any = value
    for part in reversed(corrected):
        nested = [nested] if isinstance(part, int) else {part: nested}
    snippet = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=100).rstrip()
    return text + "\n  write:\n" + "\n".join(f"    {line}" for line in snippet.splitlines())


def _file_of(path: tuple, files: list[str]) -> str:
    """The last file that sets the longest part of a path; that is where the reader must look."""
    best, depth = (files[0] if files else "configuration"), 0
    for file in files:
        try:
            value: Any = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue
        reached = 0
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
            reached += 1
        if reached and reached >= depth:
            best, depth = file, reached
    return best


def _value(merged: Any, path: tuple) -> Any:
    for part in path:
        try:
            merged = merged[part]
        except (KeyError, IndexError, TypeError):
            return None
    return merged


def _model_at(root: type[BaseModel], path: tuple) -> type[BaseModel] | None:
    """The model class that a path leads to, through mappings and lists of models; None for anything else."""
    annotation: Any = root
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = next((f for name, f in annotation.model_fields.items() if part in (name, f.alias)), None)
            annotation = _plain(field.annotation) if field else None
        else:  # a name in a mapping or a position in a list: its values are the last argument
            annotation = _plain(get_args(annotation)[-1]) if get_args(annotation) else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _plain(annotation: Any) -> Any:
    """An annotation without `| None`."""
    options = [option for option in get_args(annotation) if option is not NoneType]
    return options[0] if get_origin(annotation) in (Union, UnionType) and len(options) == 1 else annotation


def _keys(root: type[BaseModel], path: tuple) -> list[str]:
    model = _model_at(root, path)
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _example(root: type[BaseModel], path: tuple) -> Any:
    """A valid value for the key at a path: its default, or a lower bound, or a word for its type."""
    model = _model_at(root, path[:-1]) if path else None
    if model is None:
        return None
    field = next((f for name, f in model.model_fields.items() if path[-1] in (name, f.alias)), None)
    if field is None:
        return None
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        return default.model_dump() if isinstance(default, BaseModel) else default
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    return choices[0] if choices else f"<{field.description or path[-1]}>"


def _choices(fault: dict) -> list[str]:
    expected = fault.get("ctx", {}).get("expected", "")
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",") if part.strip(" '")]


def _nearest(word: str, known: list[str]) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None
