"""The values of `snakemake --config`: their types, and keys that the command line has twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tir.common.errors import ConfigError
from tir.config.yaml_files import repeated_keys

OPTION = "--config"
_WORDS = {"true": True, "false": False, "null": None}


def typed(stated: Any) -> Any:
    """Convert strings that are integers, booleans or null: inside a value, Snakemake parses all these as strings.

    Strings of floats remain; the models convert these.

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


def refuse_repeated_values(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` if a command line states a key twice; Snakemake silently keeps the last one.

    It also keeps only the last of several `--config`.

    Args:
        arguments: those of the program.
    """
    options: list[list[str]] = []
    takes = False
    for argument in arguments:
        option, _, first = argument.partition("=")
        if argument[:2] == "-C" != option:  # -Ca=1
            option, first = "-C", argument[2:]
        if option in (OPTION, "-C"):
            options.append([first] if first else [])
            takes = True
        elif argument.startswith("-"):
            takes = False
        elif takes:
            options[-1].append(argument)
    entries = [entry for option in options for entry in option]
    names = [entry.partition("=")[0] for entry in entries]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    twice += [
        f"{entry.partition('=')[0]}.{key}" for entry in entries for key, *_ in repeated_keys(entry.partition("=")[2])
    ]
    if twice or len(options) > 1:
        raise ConfigError(
            "a key is written twice" if twice else "the option is written twice",
            where=OPTION,
            why=f"{', '.join(twice) or ' '.join(names)}: Snakemake takes only the last",
            remedy=f'{OPTION} "SECTION={{KEY: VALUE, OTHER: VALUE}}" "ANOTHER={{KEY: VALUE}}"'
            "  # one option, each section once",
        )
