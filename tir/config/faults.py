"""Faults of a configuration: at which key, why, and what to write instead. `errors` puts them into words with their file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tir.schema import NAMES

KEY = "[key]"  # pydantic's last part of a path where a name itself is at fault
Path = tuple[str | int, ...]


class Fault(ValueError):
    """One fault of a configuration.

    Args:
        path: keys and positions that lead to it, from the model that raises it.
        reason: what is wrong.
        near: the valid name nearest to what stands there.
        paste: path and value to write instead; None where no value can be told.
    """

    def __init__(self, path: Path, reason: str, near: str | None = None, paste: tuple[Path, Any] | None = None):
        self.path, self.reason, self.near, self.paste = path, reason, near, paste
        super().__init__(reason)

    def below(self, *parents: str | int) -> Fault:
        """The same fault, seen from a model further up."""
        paste = ((*parents, *self.paste[0]), self.paste[1]) if self.paste else None
        return Fault((*parents, *self.path), self.reason, self.near, paste)


class Faults(ValueError):
    """Several faults that one validator finds."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list(faults)
        super().__init__("; ".join(map(str, self.faults)))


def not_among(path: Path, value: Any, known: Iterable[str], reason: str) -> Fault:
    """A name that refers to nothing; the known ones are listed where none is near."""
    known = list(known)
    near = nearest(value, known)
    return Fault(path, reason if near else f"{reason}; there is {', '.join(known) or 'none'}", near, (path, near) if near else None)


def faults_of(error: ValidationError, root: type[BaseModel], given: Any) -> list[Fault]:
    """All faults of a validation.

    Args:
        root: the model that was validated.
        given: what it was validated from.
    """
    # Where a key takes one of several types, pydantic says of each why it does not fit, some deeper than others.
    places: dict[Path, list[Any]] = {}
    for each in error.errors():
        places.setdefault(_place(root, each["loc"]), []).append(each)
    found: list[Fault] = []
    for place, tried in places.items():
        cause = tried[0].get("ctx", {}).get("error")
        if isinstance(cause, Fault | Faults):
            found += [fault.below(*place) for fault in getattr(cause, "faults", [cause])]
        elif not any(len(other) > len(place) and other[:len(place)] == place for other in places):
            found.append(_fault(place, tried, root, given))
    return found


def _fault(place: Path, tried: list[Any], root: type[BaseModel], given: Any) -> Fault:
    first = tried[0]
    value = first["input"]
    if place[-1:] == (KEY,):
        return _name(first, place[:-1], given)
    if first["type"] == "extra_forbidden":
        known = _keys(root, place[:-1])
        near = nearest(place[-1], known)
        reason = "unknown key" if near else f"unknown key; known here: {', '.join(sorted(known))}"
        return Fault(place, reason, near, ((*place[:-1], near), value) if near else None)
    field = _field(root, place)
    if first["type"] == "missing":
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)] if field else []
        meaning = f": {field.description}" if field and field.description else ""
        return Fault(place, f"missing key{meaning}", paste=(place, choices[0]) if choices else None)
    reason = " or ".join(dict.fromkeys(_said(each["msg"]) for each in tried))
    if first["type"] == "string_pattern_mismatch" and field and field.description:
        return Fault(place, f"{value!r}: should be {field.description}")
    if isinstance(value, Mapping) or not place:
        return Fault(place, reason)
    near = nearest(value, _choices(first))
    paste = near or _default(field)
    return Fault(place, f"{'null' if value is None else repr(value)}: {reason}", near, None if paste is None else (place, paste))


def _name(error: Any, path: Path, given: Any) -> Fault:
    """A mapping has a name that it may not have: its own value under one that it may."""
    name, pattern = str(error["input"]), error.get("ctx", {}).get("pattern")
    if pattern:
        plain = re.sub(r"[^A-Za-z0-9_.]+" if "." in pattern else r"\W+", "_", name)
        near = plain if re.match(pattern, plain) else None
        reason = f"a name is {NAMES[pattern]}" + (f"; write `{near}`" if near else "")
    else:
        near, reason = nearest(name, _choices(error)), _said(error["msg"])
        if error["type"] == "string_type":
            near, reason = name, "a name is text; put it in quotes"
    return Fault(path, reason, None if pattern else near, ((*path[:-1], near), value_at(given, path)) if near else None)


def value_at(given: Any, path: Path) -> Any:
    """What stands at a path; None where nothing does."""
    for part in path:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            return None
    return given


# --- what the models say of a path ----------------------------------------------------------------------------------


def _place(root: type[BaseModel], location: Path) -> Path:
    """A path without the parts that name the type pydantic tried, where a key takes one of several."""
    annotation: Any = root
    place: list[str | int] = []
    for part in location:
        options = _options(annotation)
        if len(options) > 1:
            annotation = next((option for option in options if get_origin(option) is dict), None)
        else:
            place.append(part)
            annotation = _below(annotation, part)
    return tuple(place)


def _options(annotation: Any) -> list[Any]:
    """The types a key takes, None aside."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for option in get_args(annotation) if option is not NoneType]
    return [annotation]


def _below(annotation: Any, part: str | int) -> Any:
    """The type at a key of a model, a name in a mapping or a position in a list."""
    annotation = _options(annotation)[0]
    if _is_model(annotation):
        field = _fields(annotation).get(part)
        return field.annotation if field else None
    return get_args(annotation)[-1] if get_args(annotation) else None


def _model(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    annotation: Any = root
    for part in path:
        annotation = _below(annotation, part)
    annotation = _options(annotation)[0]
    return annotation if _is_model(annotation) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(model: type[BaseModel]) -> dict[str | int, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _field(root: type[BaseModel], path: Path) -> Any:
    model = _model(root, path[:-1]) if path else None
    return _fields(model).get(path[-1]) if model else None


def _keys(root: type[BaseModel], path: Path) -> list[str]:
    model = _model(root, path)
    return [str(key) for key in _fields(model)] if model else []


def _default(field: Any) -> Any:
    """A key's default; a section has none, for pasting it would replace what else the section says."""
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    return None if isinstance(default, BaseModel) else default


def _choices(error: Any) -> list[str]:
    expected = error.get("ctx", {}).get("expected", "")
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",") if part.strip(" '")]


def nearest(word: Any, known: list[str]) -> str | None:
    """The known name that a mistaken one was probably meant to be."""
    found = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return found[0] if found else None


def _said(message: str) -> str:
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping of keys to values", message)
    return message.removeprefix("Value error, ").removeprefix("Input ")
