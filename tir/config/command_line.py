"""What `snakemake --config` states: Snakemake reads whole numbers, truth values and null inside a value as text."""

from __future__ import annotations

from typing import Any

OPTION = "--config"
_WORDS = {"true": True, "false": False, "null": None}


def typed(stated: Any) -> Any:
    """The same, with text that spells a whole number, a truth value or null as what it spells; a float may stay text.

    Args:
        stated: what Snakemake parsed: `--config "rl={steps: 3}"` is `{"rl": {"steps": "3"}}`.
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
