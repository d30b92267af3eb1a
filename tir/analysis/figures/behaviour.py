"""Figure 9: behaviour of each model, one panel per measure and one row per model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tir.analysis.plot_style import TEXT_WIDTH, looks, style
from tir.analysis.tables.behaviour import mean_of_seeds, summary
from tir.analysis.tables.inputs import Inputs

# Measure (see `summary`) -> title, task. The first three are the terms of phi, which act on math.
PANELS = {
    ("python", "answer"): ("python → answer\nper math trajectory", "math"),
    ("python", "think"): ("python → think\nper math trajectory", "math"),
    "share": ("first tool, share of\nthe text, math", "math"),
    "calls": ("tool calls\nper trajectory", None),
    "tokens": ("response length\n(tokens)", None),
    "truncated": ("share of responses\nthat are truncated", None),
}


def behaviour(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """A large dot per model, mean of its seeds, and a small one per seed; params: as for the table `behaviour`."""
    rows, benchmarks = params["rows"], params["benchmarks"]
    chosen = looks(row.get("style", row["label"]) for row in rows)
    with style():
        figure, grid = plt.subplots(
            2, 3, figsize=(TEXT_WIDTH, 1.0 + 0.42 * (len(rows) + 2)), sharey=True, squeeze=False
        )
        for axes, (measure, (title, task)) in zip(grid.flat, PANELS.items(), strict=True):
            members = [each for each in benchmarks if task in (None, each["task"])]
            for place, row in enumerate(rows):
                look = chosen[row.get("style", row["label"])]
                seeds = [summary(inputs, model, members) for model in row["models"]]
                values, mean = [each.get(measure, 0.0) for each in seeds], mean_of_seeds(seeds).get(measure, 0.0)
                axes.plot(mean, place, look.marker, color=look.colour, markersize=6, zorder=3, clip_on=False)
                if len(values) > 1:
                    axes.plot(values, [place] * len(values), "|", color=look.colour, markersize=6, alpha=0.8)
            axes.set_title(title, fontsize=7.5)
            axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)), yticklabels=[row["label"] for row in rows])
            axes.grid(visible=True, axis="both")
            # From 0, so that a small difference looks small.
            axes.set_xlim(0, 1.12 * np.nanmax([*(line.get_xdata().max() for line in axes.lines), 0.05]))
            axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure
