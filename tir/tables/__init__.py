"""Tables of the study, each built from raw records by a function chosen by name.

Builders are named here as strings and imported when used, so that a workflow can list the one module a table needs
(`module`) and a change to one table's builder does not remake the others. Importing this package imports no library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tir.errors import ConfigError

if TYPE_CHECKING:
    from tir.tables.inputs import Inputs
    from tir.tables.layout import Table

BUILDERS = {
    "table1": "tir.tables.tool_counts:accuracy_and_tools",
    "table2": "tir.tables.trajectories:tool_categories",
    "table3": "tir.tables.trajectories:bigrams",
    "table4": "tir.tables.trajectories:first_tool_offsets",
    "table5": "tir.tables.accuracy:benchmarks_by_model",
    "table6": "tir.tables.accuracy:benchmarks_by_model",
    "table7": "tir.tables.training:module_inventory",
    "table8": "tir.tables.training:resources",
    "table9": "tir.tables.training:sft_run",
    "table10": "tir.tables.training:sft_run",
    "table11": "tir.tables.accuracy:models_on_one_benchmark",
    "table12": "tir.tables.accuracy:models_on_one_benchmark",
    "table13": "tir.tables.training:sft_run",
    "qa_bigrams": "tir.tables.trajectories:bigrams",
    "judgements": "tir.tables.judge:judgements",
    "leakage": "tir.tables.leakage:leakage",
    "arithmetic": "tir.tables.arithmetic:arithmetic",
}
DEFAULT = "tir.tables.accuracy:benchmarks_by_model"  # a table that a laboratory adds has Table 5's layout


def module(name: str) -> str:
    """Dotted name of the module that builds a table, for a rule's list of code."""
    return BUILDERS.get(name, DEFAULT).partition(":")[0]


def build(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Build a table and its companions.

    Returns suffix -> table: "" is the table itself, "detail" goes beside it as `{name}_detail.csv`, and so on; "paper"
    sets the paper's cells beside ours. Raises
    `ConfigError` if `params` lacks a key the builder needs, `DataError` if an input does not fit.
    """
    from tir.tables.reference import beside

    file, _, function = BUILDERS.get(name, DEFAULT).partition(":")
    builder: Callable[..., dict[str, Table]] = getattr(import_module(file), function)
    try:
        tables = builder(name, inputs, params)
    except KeyError as error:
        raise ConfigError(
            "a parameter is missing", where=f"{name}: params", why=f"it has no {error.args[0]}"
        ) from error
    printed = beside(name, tables[""])
    return tables | ({"paper": printed} if printed else {})
