"""Figures of the study, each drawn from raw records by a function chosen by name; see `tir.tables` for the pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tir.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tir.tables.inputs import Inputs

DRAWERS = {
    "figure1": "tir.figures.evaluation:accuracy_bars",
    "figure2": "tir.figures.evaluation:accuracy_radar",
    "figure3": "tir.figures.evaluation:bigram_bars",
    "figure4": "tir.figures.training:validation_curve",
    "figure5": "tir.figures.evaluation:one_benchmark",
    "figure6": "tir.figures.evaluation:tool_categories",
    "figure7": "tir.figures.training:sft_losses",
    "figure8": "tir.figures.training:telemetry",
}


def module(name: str) -> str:
    """Dotted name of the module that draws a figure, for a rule's list of code."""
    return _drawer(name).partition(":")[0]


def draw(name: str, inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Draw a figure; raises `ConfigError` for an unknown name or a missing parameter, `DataError` for a bad input."""
    file, _, function = _drawer(name).partition(":")
    drawer: Callable[..., Figure] = getattr(import_module(file), function)
    try:
        return drawer(inputs, params)
    except KeyError as error:
        raise ConfigError(
            "a parameter is missing", where=f"{name}: params", why=f"it has no {error.args[0]}"
        ) from error


def _drawer(name: str) -> str:
    if name not in DRAWERS:
        raise ConfigError("unknown figure", where=name, why=f"there are {', '.join(DRAWERS)}")
    return DRAWERS[name]
