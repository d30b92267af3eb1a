"""Figures of the study, drawn from raw records. `FIGURES` has an entry for each.

Read `evaluation.py` first. Importing this package imports no third-party library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tir.analysis.kind import BOTH, Kind
from tir.common.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tir.analysis.tables.inputs import Inputs

FIGURES = {
    "figure1": Kind("tir.analysis.figures.evaluation:accuracy_bars", "rows", of="table1"),
    "figure2": Kind("tir.analysis.figures.evaluation:accuracy_dots", "rows", of="table5"),
    "figure3": Kind("tir.analysis.figures.evaluation:bigram_bars", "trajectories", records=BOTH),
    "figure4": Kind("tir.analysis.figures.training:validation_curve", "rl_runs"),
    "figure5": Kind("tir.analysis.figures.evaluation:one_benchmark", "rows", of="table11"),
    "figure6": Kind("tir.analysis.figures.evaluation:tool_categories", "rows", of="table11", records=("traces",)),
    "figure7": Kind("tir.analysis.figures.training:sft_losses", "sft_run", of="full"),
    "figure8": Kind("tir.analysis.figures.training:telemetry", "rl_runs"),
    "figure9": Kind("tir.analysis.figures.behaviour:behaviour", "models", records=("traces",)),
}
# Figures of the section `study`, in results/study/.
STUDY = {"phase": Kind("tir.analysis.figures.phase:phase", "phase")}


def kind(name: str) -> Kind:
    """The entry of a figure; raises `ConfigError` for an unknown name."""
    known = FIGURES | STUDY
    if name not in known:
        raise ConfigError("unknown figure", where=name, why=f"known figures: {', '.join(known)}")
    return known[name]


def draw(name: str, inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Draw a figure; one of a generated run says at its foot what it is.

    Raises `ConfigError` for an unknown name or a missing parameter, `DataError` for an unsuitable input.
    """
    from tir.analysis.origin import describe

    figure = kind(name).build(name, inputs, params)
    generated = describe(params, inputs.model)
    if generated:
        figure.supxlabel(generated, x=0.99, ha="right", fontsize=6.5, color="#555555")
    return figure
