"""The phase diagram: the effect of the shaping term by its weight and by what rethinking does in the world."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tir.analysis.numbers import fixed
from tir.analysis.plot_style import TEXT_WIDTH, style
from tir.analysis.tables.inputs import Inputs
from tir.common.errors import DataError

# Outcome of effects.csv and its task -> title of the panel, decimals.
PANELS = {
    ("accuracy", "math"): ("accuracy in math (points)", 1),
    ("python→think", "math"): ("python → think (per trajectory)", 2),
}


def phase(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """One panel per outcome, one column per world, one row per weight lambda.

    A cell is the difference to the baseline, in bold if its 95 % interval excludes 0.

    Params: worlds: [{spoil, repair}, ...]; arms: {arm: lambda}; baseline. Input `data`: effects.csv of every world, in
    the order of the worlds.
    """
    worlds, arms = params["worlds"], params["arms"]
    tables = [_rows(path) for path in inputs.data]
    if len(tables) != len(worlds):
        raise DataError(
            "not one table per world",
            where="data",
            why=f"there are {len(worlds)} worlds and {len(tables)} files",
            remedy="pass the effects.csv of every world with --data, in their order",
        )
    names = sorted(arms, key=arms.get, reverse=True)
    titles = [f"spoil {each['spoil']:g}\nrepair {each['repair']:g}" for each in worlds]
    with style():
        figure, grid = plt.subplots(
            len(PANELS), 1, sharex=True, figsize=(TEXT_WIDTH, 0.9 + len(PANELS) * (0.7 + 0.36 * len(names)))
        )
        for axes, ((outcome, task), (title, digits)) in zip(np.atleast_1d(grid), PANELS.items(), strict=True):
            cells = [[table.get((arm, outcome, task)) for table in tables] for arm in names]
            values = np.array([[np.nan if cell is None else cell[0] for cell in row] for row in cells])
            largest = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0.0
            limit = 2 * max(largest, 1e-9)  # pale colours, on which black text is legible
            axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
            for row, column in np.ndindex(values.shape):
                _label(axes, column, row, cells[row][column], digits)
            axes.set_title(f"{title}, difference to {params['baseline']}")
            axes.set_xticks(range(len(titles)), titles)
            axes.label_outer()
            axes.set_yticks(range(len(names)), [f"λ = {arms[name]:g}" for name in names])
            axes.tick_params(length=0)
            axes.grid(visible=False)
    return figure


def _label(axes, column: int, row: int, cell: tuple[float, bool] | None, digits: int) -> None:
    if cell is None:
        axes.text(column, row, "none", ha="center", va="center", fontsize=6.5, color="#777777")
        return
    value, clear = cell
    text = fixed(value, digits, sign=True).replace("-", "−")
    axes.text(column, row, text, ha="center", va="center", fontsize=7.5, fontweight="bold" if clear else "normal")


def _rows(path: Path) -> dict[tuple[str, str, str], tuple[float, bool]]:
    """(difference, whether its interval excludes 0) by (arm, outcome, task); without the rows that compare no item.

    One seed has no p-value: its interval says nothing about training.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"arm", "outcome", "task", "difference", "lo", "hi", "p"} <= rows[0].keys():
        raise DataError("not a table of effects", where=str(path), why="its columns are not those of effects.csv")
    return {
        (row["arm"], row["outcome"], row["task"]): (
            float(row["difference"]),
            bool(row["p"]) and (float(row["lo"]) > 0 or float(row["hi"]) < 0),
        )
        for row in rows
        if row["difference"] and row["lo"]
    }
