"""Figures of evaluation: accuracy by benchmark (1, 2, 5), bigrams (3), tool categories (6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tir.analysis.numbers import fixed, points
from tir.analysis.plot_style import (
    CATEGORY_LOOKS,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    TEXT_WIDTH,
    Look,
    bar_style,
    draw_intervals,
    looks,
    style,
)
from tir.analysis.statistics import Estimate
from tir.analysis.tables.accuracy import METRIC_NAMES, evaluate
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.trajectories import behaviours, bigram_rows, sampled
from tir.rollout.categories import TOOL_CATEGORIES, tool_category

_GROUPS = {"math": "Computational (Python)", "qa": "Knowledge (search)", "web": "Web"}


def accuracy_bars(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 1: a group of bars per benchmark, one bar per model, with 95 % intervals; a dashed line between tasks.

    Params: rows, benchmarks, as for Table 5.
    """
    rows, benchmarks = params["rows"], params["benchmarks"]
    estimates = _estimates(inputs, params)
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH, 2.5))
        width = 0.82 / len(rows)
        for number, (row, look) in enumerate(_with_looks(rows)):
            of_row = [estimates[row["label"], each["name"]] for each in benchmarks]
            places = np.arange(len(benchmarks)) + (number - (len(rows) - 1) / 2) * width
            _bars(axes, places, of_row, width * 0.94, look)
        axes.set_xticks(range(len(benchmarks)), [each["label"] for each in benchmarks])
        axes.set_xlabel(f"{_items(estimates, rows, benchmarks)}; 95 % intervals")
        axes.tick_params(axis="x", length=0)
        axes.set(ylabel="Score (×100)", ylim=(0, 100), xlim=(-0.6, len(benchmarks) - 0.4))
        _mark_tasks(axes, [each.get("task") for each in benchmarks])
        figure.legend(handles=_handles(rows), loc="outside upper center", ncols=min(len(rows), 5), handlelength=1.6)
    return figure


def accuracy_dots(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 2: a dot and a 95 % interval per model and benchmark, one row per benchmark; params as for Figure 1.

    The paper has a radar. Polygons hide each other, their areas depend on the order of the axes, and they have no
    intervals.
    """
    rows, benchmarks = params["rows"], params["benchmarks"]
    estimates = _estimates(inputs, params)
    height = 0.16 * len(rows) + 0.12
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 0.9 + height * len(benchmarks)))
        for number, (row, look) in enumerate(_with_looks(rows)):
            places = np.arange(len(benchmarks)) + (number - (len(rows) - 1) / 2) * 0.8 / len(rows)
            of_row = [estimates[row["label"], each["name"]] for each in benchmarks]
            scores, lows, highs = (
                100 * np.array([getattr(each, name) for each in of_row]) for name in ("score", "lo", "hi")
            )
            axes.hlines(places, lows, highs, color=look.colour, linewidth=1.1, alpha=0.8)
            axes.plot(
                scores,
                places,
                look.marker,
                color=look.colour,
                markersize=5,
                label=row["label"],
                zorder=3,
                clip_on=False,
            )
        for place in range(1, len(benchmarks)):
            axes.axhline(place - 0.5, color="#e3e3e3", linewidth=0.5)
        axes.set_yticks(range(len(benchmarks)), [each["label"] for each in benchmarks])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set(
            xlim=(0, 100),
            ylim=(len(benchmarks) - 0.5, -0.5),
            xlabel=f"Score (×100), {_items(estimates, rows, benchmarks)}; 95 % intervals",
        )
        figure.legend(loc="outside upper center", ncols=min(len(rows), 4), handlelength=1.2)
    return figure


def _empty_figure(text: str) -> Figure:
    """A figure that shows only a sentence: records without the plotted events are valid data, not an error."""
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 1.2))
        axes.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
        axes.set_axis_off()
    return figure


def bigram_bars(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 3: accuracy given an action bigram, most successful first, with clustered intervals and counts.

    Shows all bigrams that occur. (The five most frequent of the paper would exclude python→think, its sixth.) Params:
    sets, decoding, as for Table 3.
    """
    trajectories = behaviours(inputs, params["sets"])
    rows = bigram_rows(trajectories)
    rows.sort(key=lambda row: (-float(row[3]), row[0]))
    if not rows:
        return _empty_figure(f"no action bigram occurs in {len(trajectories)} trajectories")
    shares, lows, highs = (np.array([float(row[column]) for row in rows]) for column in (3, 6, 7))
    styles = {"python→answer": (POSITIVE, "////"), "python→think": (NEGATIVE, "\\\\\\\\")}
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 0.85 + 0.27 * len(rows)))
        places = np.arange(len(rows))
        for place, share, row in zip(places, shares, rows, strict=True):
            colour, hatch = styles.get(row[0], (NEUTRAL, ""))
            axes.barh(place, share, 0.66, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0)
        draw_intervals(axes, places, shares, lows, highs, horizontal=True)
        for place, share, high, row in zip(places, shares, highs, rows, strict=True):
            text = f"{fixed(share, 2)}  (n = {row[1] + row[2]})"
            axes.text(max(share, high) + 0.02, place, text, ha="left", va="center", fontsize=7)
        axes.set_yticks(places, [row[0].replace("→", " → ") for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set(
            xlabel="P(correct | bigram), 95 % intervals",
            ylim=(len(rows) - 0.4, -0.6),
            xlim=(0, 1.28),
            xticks=np.arange(0, 1.01, 0.25),
            title=sampled(trajectories, params).replace(", sampled", ",\nsampled"),
        )
    return figure


def one_benchmark(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 5: models on one benchmark (the first of `benchmarks`); params as for Figure 1."""
    rows, benchmark = params["rows"], params["benchmarks"][0]
    estimates = _estimates(inputs, {**params, "benchmarks": [benchmark]})
    with style():
        figure, axes = plt.subplots(figsize=(0.9 + 0.75 * len(rows), 2.4))
        for place, (row, look) in enumerate(_with_looks(rows)):
            estimate = estimates[row["label"], benchmark["name"]]
            _bars(axes, np.array([place]), [estimate], 0.62, look)
            label = points(estimate.score)
            axes.text(place, 100 * estimate.hi + 2, label, ha="center", va="bottom", fontsize=7.5)
        items = estimates[rows[0]["label"], benchmark["name"]].n
        axes.set_xticks(range(len(rows)), [row["label"] for row in rows])
        axes.tick_params(axis="x", length=0)
        axes.set(
            ylabel=f"{METRIC_NAMES[benchmark['metric']].capitalize()} (×100)",
            xlabel="95 % intervals",
            ylim=(0, 108),
            yticks=range(0, 101, 20),
            xlim=(-0.6, len(rows) - 0.4),
            title=f"{benchmark['label']}, n = {items}",
        )
    return figure


def tool_categories(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 6: shares of tool categories by model, divided by the number of calls, from executed calls.

    If all trajectories of all models fall into one class, the figure is that sentence. Params: rows: [{label, models}];
    benchmarks: [{name, label}], pooled (the paper uses GSM8K only).
    """
    rows = params["rows"]
    counts = {row["label"]: _tool_use(inputs, row["models"], params["benchmarks"]) for row in rows}
    totals = {label: sum(each.values()) for label, each in counts.items()}
    labels = [each["label"] for each in params["benchmarks"]]
    where = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} benchmarks"
    classes = sorted(set().union(*counts.values()), key=lambda each: (TOOL_CATEGORIES.index(each[0]), each[1]))
    if len(classes) == 1:
        number, models = sum(totals.values()), " and ".join(totals)
        return _empty_figure(f"{where}: all {number} trajectories of {models} are of one kind: {_use(*classes[0])}")
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 0.85 + 0.2 * -(-len(classes) // 3) + 0.36 * len(rows)))
        left = np.zeros(len(rows))
        places = np.arange(len(rows))[::-1]
        for each in classes:
            widths = np.array([100 * counts[row["label"]][each] / totals[row["label"]] for row in rows])
            axes.barh(places, widths, 0.62, left=left, **_use_style(*each))
            for place, start, width in zip(places, left, widths, strict=True):
                if width >= 7:
                    axes.text(
                        start + width / 2,
                        place,
                        f"{fixed(width, 0)} %",
                        ha="center",
                        va="center",
                        fontsize=7,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.9},
                    )
            left += widths
        axes.set_yticks(places, [f"{row['label']}\n(n = {totals[row['label']]})" for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.set(xlabel=f"Share of trajectories on {where} (%)", xlim=(0, 100))
        handles = [Patch(**_use_style(*each), label=_use(*each)) for each in classes]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=1.6)
    return figure


def _use(category: str, calls: int) -> str:
    """A class of tool use in words."""
    if category == "no_tools":
        return "no tool"
    times = {1: "once", 2: "twice"}.get(calls, "three times or more")
    return "both tools" if category == "mixed" else f"{category.removesuffix('_only')} {times}"


def _use_style(category: str, calls: int) -> dict[str, Any]:
    """The category's look, lighter and with a denser hatch for more calls."""
    look = CATEGORY_LOOKS[category]
    lighter = 0.55 * (max(calls, 1) - 1) / 2
    colour = tuple(channel + (1 - channel) * lighter for channel in to_rgb(look.colour))
    return bar_style(replace(look, colour=colour, hatch=look.hatch[:1] * (5 - calls) if calls else look.hatch))


def _estimates(inputs: Inputs, params: Mapping[str, Any]) -> dict[tuple[str, str], Estimate]:
    return evaluate(inputs, params["rows"], params["benchmarks"], pairs=()).estimates


def _bars(axes, places: np.ndarray, estimates: Sequence[Estimate], width: float, look: Look) -> None:
    scores, lows, highs = (
        100 * np.array([getattr(estimate, name) for estimate in estimates]) for name in ("score", "lo", "hi")
    )
    axes.bar(places, scores, width, **bar_style(look))
    draw_intervals(axes, places, scores, lows, highs)
    for place, score, high in zip(places, scores, highs, strict=True):
        if score < 0.5:  # the bar is too low to be visible
            axes.text(place, high + 1.5, fixed(score, 0), ha="center", va="bottom", fontsize=6.5)


def _mark_tasks(axes, tasks: Sequence[str | None]) -> None:
    """Draw a dashed line where the task changes, and each task's name above its bars."""
    starts = [position for position, task in enumerate(tasks) if position == 0 or task != tasks[position - 1]]
    for start, end in zip(starts, [*starts[1:], len(tasks)], strict=True):
        if start:
            axes.axvline(start - 0.5, color="#555555", linestyle=(0, (4, 3)), linewidth=0.8)
        if len(starts) > 1:
            axes.text(
                (start + end - 1) / 2,
                1.0,
                _GROUPS.get(tasks[start], ""),
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=7.5,
                color="#333333",
            )


def _handles(rows: Sequence[Mapping]) -> list[Patch]:
    return [Patch(**bar_style(look), label=row["label"]) for row, look in _with_looks(rows)]


def _with_looks(rows: Sequence[Mapping]) -> list[tuple[Mapping, Look]]:
    """Rows paired with their looks."""
    chosen = looks(row.get("style", row["label"]) for row in rows)
    return [(row, chosen[row.get("style", row["label"])]) for row in rows]


def _items(
    estimates: Mapping[tuple[str, str], Estimate], rows: Sequence[Mapping], benchmarks: Sequence[Mapping]
) -> str:
    """The number of items: "n = 30 per benchmark", or one number per benchmark if they differ."""
    sizes = [estimates[rows[0]["label"], each["name"]].n for each in benchmarks]
    if len(set(sizes)) == 1:
        return f"n = {sizes[0]} per benchmark"
    return f"n = {', '.join(map(str, sizes))}"


def _tool_use(inputs: Inputs, models: Sequence[str], benchmarks: Sequence[Mapping]) -> Counter[tuple[str, int]]:
    """Trajectories by (category, executed calls, at most 3); the calls of `mixed` are not divided."""
    traces = [trace for model in models for each in benchmarks for trace in inputs.traces(model, each["name"])]
    calls = [(trace["n_python"], trace["n_search"]) for trace in traces]
    return Counter((tool_category(*each), 0 if all(each) else min(sum(each), 3)) for each in calls)
