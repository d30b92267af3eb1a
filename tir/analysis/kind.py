"""The entry of a table or figure: the function that builds it, its inputs, and the tables written beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from tir.common.errors import ConfigError

BOTH = ("scores", "traces")


@dataclass(frozen=True)
class Kind:
    """How a table or figure is made.

    Attributes:
        builder: "module:function". It is imported when used: the workflow reads all entries without loading pandas or
            matplotlib, and the code digest of a table covers only the module that it needs.
        source: the part of the configuration that selects its inputs; see `tir.workflow.targets`.
        of: name of the table, set of trajectories or SFT run in the configuration; None: the entry's own name.
        records: kinds of records that it reads.
        companions: suffixes of the tables written beside it.
    """

    builder: str
    source: Literal[
        "rows",
        "models",
        "trajectories",
        "sft_run",
        "rl_runs",
        "sft_data",
        "package",
        "stages",
        "judge",
        "data",
        "tables",
        "study",
        "phase",
    ]
    of: str | None = None
    records: tuple[str, ...] = ("scores",)
    companions: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Dotted name of the builder's module, for a rule's code digest."""
        return self.builder.partition(":")[0]

    def build(self, name: str, *arguments: Any) -> Any:
        """Call the builder. Raises `ConfigError` if `params` of the table or figure `name` lack a key that it needs."""
        try:
            return resolve_name(self.builder)(*arguments)
        except KeyError as error:
            raise ConfigError(
                "a parameter is missing",
                where=f"{name}: params",
                why=f"it has no {error.args[0]}",
                remedy=f"add {error.args[0]} to the JSON of --params",
            ) from error
