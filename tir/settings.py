"""Settings dataclasses from the plain mappings that scripts receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from tir.errors import ConfigError

Settings = TypeVar("Settings")


def from_params(kind: type[Settings], params: dict[str, Any], where: str) -> Settings:
    """A settings dataclass from a plain mapping; an unknown key is a `ConfigError` that lists the known ones.

    Args:
        kind: the dataclass.
        params: its fields; those left out take their defaults.
        where: the section of the configuration, for the error.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ConfigError("unknown key", where=f"{where}.{unknown[0]}", why="it is not a setting here",
                          remedy=f"use one of {', '.join(known)}")
    return kind(**params)


def merged(params: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's parameters with its operational settings in their places; those of a section that is not there are left out."""
    both = dict(params)
    for key, value in operation.items():
        if not isinstance(value, Mapping):
            both[key] = value
        elif isinstance(both.get(key), Mapping):
            both[key] = merged(both[key], value)
    return both
