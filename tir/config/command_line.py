"""Types of values in `snakemake --config`: inside a value, Snakemake parses integers, booleans and null as strings."""

from __future__ import annotations

from typing import Any

OPTION = "--config"
_WORDS = {"true": True, "false": False, "null": None}


def typed(stated: Any) -> Any:
    """Convert strings that are integers, booleans or null. Strings of floats remain; the models convert these.

    Args:
        stated: the value as Snakemake parsed it: `--config "rl={steps: 3}"` is `{"rl": {"steps": "3"}}`.
    """
    if isinstance(stated, dict):
        return {key: typed(value) for key, value in stated.items()}
    if isinstance(stated, list):
        return [typed(value) for value in stated]
    if not isinstance(stated, str):
        return stated
    try:
        return int(stated)
    except ValueError:
        return _WORDS.get(stated.lower(), stated)
