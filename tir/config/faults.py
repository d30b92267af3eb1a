"""Faults of a configuration: key, reason and correction. `errors` formats them with the file that sets the key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tir.common.schema import NAMES

KEY = "[key]"  # last part of pydantic's path if a key of a mapping is invalid, rather than its value
Path = tuple[str | int, ...]
_SIMILAR = 0.8  # two names are more probably the same, one mistyped, than two different ones


class Fault(ValueError):
    """One fault of a configuration.

    Args:
        path: keys and list positions that lead to it, starting from the model that raises it.
        reason: what is wrong.
        near: the valid name most similar to the given one.
        paste: path and value of a correction; None if none can be suggested.
    """

    def __init__(self, path: Path, reason: str, near: str | None = None, paste: tuple[Path, Any] | None = None):
        self.path, self.reason, self.near, self.paste = path, reason, near, paste
        super().__init__(reason)

    def below(self, *parents: str | int) -> Fault:
        """The same fault with the keys of the models above it."""
        paste = ((*parents, *self.paste[0]), self.paste[1]) if self.paste else None
        return Fault((*parents, *self.path), self.reason, self.near, paste)


class Faults(ValueError):
    """Several faults found by one validator."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list(faults)
        super().__init__("; ".join(map(str, self.faults)))


def not_among(path: Path, value: Any, known: Iterable[str], reason: str) -> Fault:
    """The fault of an unknown name; the reason lists the known names unless one is similar."""
    known = list(known)
    near = nearest(value, known)
    return Fault(
        path,
        reason if near else f"{reason}; there is {', '.join(known) or 'none'}",
        near,
        (path, near) if near else None,
    )


def faults_of(error: ValidationError, root: type[BaseModel], given: Any) -> list[Fault]:
    """All faults of a validation.

    Args:
        error: the error of validating `given` with `root`.
        root: the model.
        given: the value.
    """
    # If a key accepts several types, pydantic reports one error per type, at different depths.
    places: dict[Path, list[Any]] = {}
    for each in error.errors():
        places.setdefault(_place(root, each["loc"]), []).append(each)
    found: list[Fault] = []
    for place, tried in places.items():
        cause = tried[0].get("ctx", {}).get("error")
        if isinstance(cause, Fault | Faults):
            found += [fault.below(*place) for fault in getattr(cause, "faults", [cause])]
        elif not any(len(other) > len(place) and other[: len(place)] == place for other in places):
            found.append(_fault(place, tried, root, given))
    return found


def _fault(place: Path, tried: list[Any], root: type[BaseModel], given: Any) -> Fault:
    first = tried[0]
    value = first["input"]
    if place[-1:] == (KEY,):
        return _name(first, place[:-1], given)
    if first["type"] == "extra_forbidden":
        return _unknown_key(root, place, value)
    source = getattr(_annotation(root, place), "from_text", None)
    if source and isinstance(value, str):
        return Fault(place, f"{value!r}: should be a mapping that says what it is", paste=(place, source(value)))
    field = _field(root, place)
    if first["type"] == "missing":
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)] if field else []
        meaning = f": {field.description}" if field and field.description else ""
        return Fault(place, f"missing key{meaning}", paste=(place, choices[0]) if choices else None)
    reason = " or ".join(dict.fromkeys(_reason(each["msg"]) for each in tried))
    if first["type"] == "string_pattern_mismatch" and field and field.description:
        return Fault(place, f"{value!r}: should be {field.description}")
    if isinstance(value, Mapping) or not place:
        return Fault(place, reason)
    near = nearest(value, _choices(first))
    paste = near or _default(field)
    return Fault(
        place, f"{'null' if value is None else repr(value)}: {reason}", near, None if paste is None else (place, paste)
    )


def _unknown_key(root: type[BaseModel], place: Path, value: Any) -> Fault:
    """The fault of an unknown key: a similar key at its place, or the same one elsewhere in the configuration."""
    *above, name = place
    known = _keys(root, place[:-1])
    if not isinstance(value, Mapping):  # no value of a section; `data: x` may be meant as a source
        sections = {key for key in known if _is_section(_annotation(root, (*above, key)))}
        known_here = [key for key in known if key not in sections or _similarity(name, key) >= _SIMILAR]
    else:
        known_here = known
    paths = [(*above, near)] if (near := nearest(name, known_here)) else []
    if not near or _similarity(name, near) < _SIMILAR:
        everywhere = list(_all_keys(root))
        other = (
            name
            if any(path[-1] == name for path in everywhere)
            else nearest(name, [p[-1] for p in everywhere], _SIMILAR)
        )
        # Nearest first: those below the same sections, then those with the shortest path.
        paths = (
            sorted(
                (path for path in everywhere if path[-1] == other),
                key=lambda path: (-sum(a == b for a, b in zip(path, above, strict=False)), len(path)),
            )
            or paths
        )
    if not paths:
        return Fault(place, f"unknown key; known here: {', '.join(sorted(known))}")
    best, *others = (path[-1] if path[:-1] == place[:-1] else ".".join(path) for path in paths)
    also = f"; there is also {', '.join(f'`{each}`' for each in others[:3])}" if others else ""
    return Fault(place, f"unknown key{also}", best, (paths[0], _spelled_out(_annotation(root, paths[0]), value)))


def _spelled_out(annotation: Any, value: Any) -> Any:
    """A value in which each source that is written as a text, e.g. `Qwen/Qwen2.5-3B`, is a mapping."""
    annotation = _options(annotation)[0]
    if isinstance(value, str) and get_origin(annotation) is dict and hasattr(get_args(annotation)[-1], "from_text"):
        return {"base": get_args(annotation)[-1].from_text(value)}
    if isinstance(value, str) and hasattr(annotation, "from_text"):
        return annotation.from_text(value)
    if isinstance(value, Mapping):
        return {key: _spelled_out(_below(annotation, key), item) for key, item in value.items()}
    return value


def _name(error: Any, path: Path, given: Any) -> Fault:
    """The fault of an invalid key of a mapping; the correction has the same value under a valid key."""
    stated, pattern = error["input"], error.get("ctx", {}).get("pattern")
    name = json.dumps(stated) if stated is None or isinstance(stated, bool) else str(stated)
    path, value = (*path[:-1], name), value_at(given, (*path[:-1], stated))
    if pattern:
        plain = re.sub(r"[^A-Za-z0-9_.]+" if "." in pattern else r"\W+", "_", name)
        near = plain if re.match(pattern, plain) else None
        reason = f"a name is {NAMES[pattern]}" + (f"; write `{near}`" if near else "")
    else:
        near, reason = nearest(name, _choices(error)), _reason(error["msg"])
        if error["type"] == "string_type":
            near, reason = name, "a name is text; put it in quotes"
    return Fault(path, reason, None if pattern else near, ((*path[:-1], near), value) if near else None)


def value_at(given: Any, path: Path) -> Any:
    """The value at a path, or None."""
    for part in path:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            return None
    return given


# --- models, fields and types at a path -----------------------------------------------------------------------------


def _place(root: type[BaseModel], location: Path) -> Path:
    """A path without the parts that pydantic adds for the types of a union."""
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
    """The types that a key accepts, without None."""
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


def _annotation(root: type[BaseModel], path: Path) -> Any:
    """The type at a path; None if it has none."""
    annotation: Any = root
    for part in path:
        annotation = _below(annotation, part)
    return _options(annotation)[0]


def _model(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    annotation = _annotation(root, path)
    return annotation if _is_model(annotation) else None


def _all_keys(model: type[BaseModel], above: Path = ()) -> Iterator[Path]:
    """Paths of all keys of a model and of the models below it; in a mapping of models, `NAME` stands for any name."""
    for key, field in _fields(model).items():
        path = (*above, key)
        yield path
        below = _options(field.annotation)[0]
        if get_origin(below) is dict:
            path, below = (*path, "NAME"), _options(get_args(below)[-1])[0]
        if _is_model(below):
            yield from _all_keys(below, path)


def _is_section(annotation: Any) -> bool:
    return _is_model(annotation) or get_origin(annotation) is dict


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
    """Default of a key; None for a section, because a pasted section would replace all its keys."""
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    return None if isinstance(default, BaseModel) else default


def _choices(error: Any) -> list[str]:
    expected = error.get("ctx", {}).get("expected", "")
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",") if part.strip(" '")]


def nearest(word: Any, known: list[str], cutoff: float = 0.5) -> str | None:
    """The known name that is most similar to a word, or None if none has the similarity `cutoff`."""
    if same := next((each for each in known if each.lower() == str(word).lower()), None):
        return same
    found = difflib.get_close_matches(str(word), known, n=1, cutoff=cutoff)
    return found[0] if found else None


def _similarity(one: Any, other: str) -> float:
    return difflib.SequenceMatcher(None, str(one), other).ratio()


def _reason(message: str) -> str:
    """pydantic's message in terms of YAML."""
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping of keys to values", message)
    return message.removeprefix("Value error, ").removeprefix("Input ")
