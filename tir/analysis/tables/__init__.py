"""Tables of the study, built from raw records. `TABLES` has an entry for each.

Read `accuracy.py` first. To add a table, write a function, an entry here and a caption in `docs/captions`. Importing
this package imports no third-party library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tir.analysis.kind import BOTH, Kind

if TYPE_CHECKING:
    from tir.analysis.tables.inputs import Inputs
    from tir.analysis.tables.layout import Table

_BY_BENCHMARK = Kind(
    "tir.analysis.tables.accuracy:benchmarks_by_model", "rows", companions=("comparisons", "detail", "variance")
)
_ONE_BENCHMARK = Kind(
    "tir.analysis.tables.accuracy:models_on_one_benchmark", "rows", companions=("comparisons", "detail")
)
_BIGRAMS = Kind(
    "tir.analysis.tables.trajectories:bigrams", "trajectories", records=BOTH, companions=("by_task", "tests")
)
_SFT_RUN = "tir.analysis.tables.training:sft_run"
TABLES = {
    "table1": Kind(
        "tir.analysis.tables.tool_counts:accuracy_and_tools", "rows", records=BOTH, companions=("calls", "detail")
    ),
    "table2": Kind("tir.analysis.tables.trajectories:tool_categories", "sft_data"),
    "table3": _BIGRAMS,
    "table4": Kind("tir.analysis.tables.trajectories:first_tool_offsets", "trajectories", records=BOTH),
    "table5": _BY_BENCHMARK,
    "table6": _BY_BENCHMARK,
    "table7": Kind("tir.analysis.tables.training:module_inventory", "package"),
    "table8": Kind("tir.analysis.tables.training:resources", "stages"),
    "table9": Kind(_SFT_RUN, "sft_run", of="smoke"),
    "table10": Kind(_SFT_RUN, "sft_run", of="medium"),
    "table11": _ONE_BENCHMARK,
    "table12": _ONE_BENCHMARK,
    "table13": Kind(_SFT_RUN, "sft_run", of="full"),
    "qa_bigrams": _BIGRAMS,
    "behaviour": Kind("tir.analysis.tables.behaviour:behaviour", "models", records=("traces",), companions=("seeds",)),
    "shaping": Kind("tir.analysis.tables.behaviour:shaping", "rl_runs", companions=("fire",)),
    "judgements": Kind("tir.analysis.tables.judge:judgements", "judge"),
    "leakage": Kind("tir.analysis.tables.leakage:leakage", "data", companions=("files",)),
    "arithmetic": Kind("tir.analysis.tables.arithmetic:arithmetic", "tables"),
}
# Tables of the section `study`, in results/study/.
STUDY = {
    "effects": Kind("tir.analysis.tables.effects:effects", "study", records=BOTH),
    "power": Kind("tir.analysis.tables.power:power", "study", records=BOTH),
}


def kind(name: str) -> Kind:
    """The entry of a table. A name that is only in the configuration gets the entry of Table 5."""
    return (TABLES | STUDY).get(name, _BY_BENCHMARK)


def build(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Build a table and its companions.

    Returns suffix -> table. "" is the table itself; `{name}_{suffix}.csv` are its companions. "paper" has the paper's
    cells beside this run's; a generated run has none, and its captions say what it is. Raises `ConfigError` if `params`
    lacks a key, `DataError` for an unsuitable input.
    """
    from tir.analysis.origin import describe
    from tir.analysis.tables.reference import paper_comparison

    tables = kind(name).build(name, name, inputs, params)
    generated = describe(params, inputs.model)
    if generated:
        for table in tables.values():
            table.caption += f" ({generated})"
        return tables
    paper = paper_comparison(name, tables[""])
    return tables | ({"paper": paper} if paper else {})
