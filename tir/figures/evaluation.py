"""Figures of evaluation: accuracy by benchmark (1, 2, 5), bigrams (3), tool categories (6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tir.errors import DataError
from tir.plot_style import (
    CATEGORY_LOOKS,
    LOOKS,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    TEXT_WIDTH,
    Look,
    bar_style,
    draw_intervals,
    line_style,
    looks,
    style,
)
from tir.statistics import Estimate
from tir.tables.accuracy import METRIC_NAMES, evaluate
from tir.tables.inputs import Inputs
from tir.tables.trajectories import BIGRAMS, CATEGORIES, arrow, behaviours, bigram_rows, category

_GROUPS = {"math": "Computational (Python)", "qa": "Knowledge (search)", "web": "Web"}


def accuracy_bars(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 1: a group of bars per benchmark, one bar per model, with 95 % intervals; a dashed line between tasks.

    Params: rows, benchmarks, statistics, as for Table 5.
    """
    rows, benchmarks = params["rows"], params["benchmarks"]
    estimates = _estimates(inputs, params)
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH, 2.5))
        width = 0.82 / len(rows)
        for number, (row, drawn) in enumerate(_drawn(rows)):
            found = [estimates[row["label"], each["name"]] for each in benchmarks]
            places = np.arange(len(benchmarks)) + (number - (len(rows) - 1) / 2) * width
            _bars(axes, places, found, width * 0.94, drawn)
        axes.set_xticks(range(len(benchmarks)), [each["label"] for each in benchmarks])
        axes.set_xlabel(f"{_items(estimates, rows, benchmarks)}; 95 % intervals")
        axes.tick_params(axis="x", length=0)
        axes.set(ylabel="Score (×100)", ylim=(0, 100), xlim=(-0.6, len(benchmarks) - 0.4))
        _mark_tasks(axes, [each.get("task") for each in benchmarks])
        figure.legend(handles=_handles(rows), loc="outside upper center", ncols=min(len(rows), 5), handlelength=1.6)
    return figure


def accuracy_radar(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 2: the same as a radar, one axis per benchmark, one polygon per model; params as for Figure 1."""
    rows, benchmarks = params["rows"], params["benchmarks"]
    if len(benchmarks) < 3:
        raise DataError("a radar needs three benchmarks or more", where="benchmarks", why=f"{len(benchmarks)} given")
    estimates = _estimates(inputs, params)
    angles = np.linspace(0, 2 * np.pi, len(benchmarks), endpoint=False)
    scores = np.array([[100 * estimates[row["label"], each["name"]].score for each in benchmarks] for row in rows])
    top = min(100, 10 * np.ceil(max(scores.max(), 1) / 10))
    with style():
        figure, axes = plt.subplots(figsize=(3.6, 3.9), subplot_kw={"projection": "polar"})
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        for (_, drawn), values in zip(_drawn(rows), scores, strict=True):
            axes.plot(np.append(angles, angles[0]), np.append(values, values[0]), **line_style(drawn), zorder=3)
            axes.fill(angles, values, color=drawn.colour, alpha=0.06, linewidth=0)
            if drawn in (LOOKS["published"], LOOKS["sft"]):  # more than two hatches on top of each other are mud
                axes.fill(
                    angles, values, facecolor="none", edgecolor=drawn.colour, alpha=0.25, hatch=drawn.hatch, linewidth=0
                )
        axes.set_xticks(angles, [each["label"] for each in benchmarks])
        axes.tick_params(axis="x", pad=5)
        step = 20 if top > 40 else 10
        axes.set_yticks(np.arange(step, top + 1, step))
        axes.set_rlabel_position(180 / len(benchmarks))
        axes.tick_params(axis="y", labelsize=6, labelcolor="#555555")
        for label in axes.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8})
            label.set_zorder(4)
        axes.set_ylim(0, top)
        axes.grid(visible=True, color="#d9d9d9")
        axes.spines["polar"].set_color("#bbbbbb")
        figure.legend(
            handles=[plt.Line2D([], [], **line_style(drawn), label=row["label"]) for row, drawn in _drawn(rows)],
            title=f"Score (×100), {_items(estimates, rows, benchmarks)}",
            loc="outside lower center",
            ncols=2 if len(rows) in (2, 4) else 3,
            handlelength=2.8,
        )
    return figure


def _remark(text: str) -> Figure:
    """An empty panel that says why: a model that does nothing yet is data, not a fault."""
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 1.2))
        axes.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
        axes.set_axis_off()
    return figure


def bigram_bars(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 3: accuracy given an action bigram, most successful first, with clustered intervals and counts.

    All of the paper's bigrams have a place, those that do not occur the last ones; the five most frequent would leave
    out python→think, the sixth. Others that occur are in Table 3. Params: sets, statistics, as for Table 3.
    """
    found = behaviours(inputs, params["sets"])
    known = [arrow(bigram) for bigram in BIGRAMS]
    rows = [row for row in bigram_rows(found, params.get("statistics", {})) if row[0] in known]
    missing = [name for name in known if name not in {row[0] for row in rows}]
    if not rows:
        return _remark(f"no action bigram occurs in {len(found)} trajectories")
    shares, lows, highs = (np.array([float(row[column]) for row in rows]) for column in (3, 6, 7))
    colours = {"python→answer": POSITIVE, "python→think": NEGATIVE}
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.82, 2.4))
        places = np.arange(len(rows))
        for place, share, row in zip(places, shares, rows, strict=True):
            hatch = {"python→answer": "////", "python→think": "\\\\\\\\"}.get(row[0], "")
            axes.bar(
                place, share, 0.66, facecolor=colours.get(row[0], NEUTRAL), hatch=hatch, edgecolor="white", linewidth=0
            )
        draw_intervals(axes, places, shares, lows, highs)
        for place, share, high, row in zip(places, shares, highs, rows, strict=True):
            axes.text(place, max(share, high) + 0.025, f"{share:.2f}", ha="center", va="bottom", fontsize=7)
            axes.text(
                place,
                -0.2,
                f"n = {row[1] + row[2]}",
                ha="center",
                va="top",
                fontsize=6.5,
                color="#555555",
                transform=axes.get_xaxis_transform(),
            )
        for place in range(len(rows), len(known)):
            axes.text(place, 0.025, "does not\noccur", ha="center", va="bottom", fontsize=7, color="#555555")
        names = [*(row[0] for row in rows), *missing]
        axes.set_xticks(range(len(names)), [name.replace("→", "\n→ ") for name in names])
        axes.tick_params(axis="x", length=0)
        axes.set(
            ylabel="P(correct | bigram), 95 % intervals",
            xlim=(-0.6, len(names) - 0.4),
            ylim=(0, 1.08),
            yticks=np.arange(0, 1.01, 0.25),
        )
    return figure


def one_benchmark(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 5: models on one benchmark (the first of `benchmarks`); params as for Figure 1."""
    rows, benchmark = params["rows"], params["benchmarks"][0]
    estimates = _estimates(inputs, {**params, "benchmarks": [benchmark]})
    with style():
        figure, axes = plt.subplots(figsize=(0.9 + 0.75 * len(rows), 2.4))
        for place, (row, drawn) in enumerate(_drawn(rows)):
            found = estimates[row["label"], benchmark["name"]]
            _bars(axes, np.array([place]), [found], 0.62, drawn)
            axes.text(place, 100 * found.hi + 2, f"{100 * found.score:.1f}", ha="center", va="bottom", fontsize=7.5)
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
    """Figure 6: shares of tool categories by model, from calls that ran.

    Params: rows: [{label, models}]; benchmarks: [{name, ...}] pooled (the paper: GSM8K only).
    """
    rows = params["rows"]
    counts = {row["label"]: _category_counts(inputs, row["models"], params["benchmarks"]) for row in rows}
    totals = {label: sum(each.values()) for label, each in counts.items()}
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.75, 0.85 + 0.36 * len(rows)))
        left = np.zeros(len(rows))
        places = np.arange(len(rows))[::-1]
        for name in CATEGORIES:
            widths = np.array([100 * counts[row["label"]][name] / totals[row["label"]] for row in rows])
            axes.barh(places, widths, 0.62, left=left, **bar_style(CATEGORY_LOOKS[name]))
            for place, start, width in zip(places, left, widths, strict=True):
                if width >= 7:
                    axes.text(
                        start + width / 2,
                        place,
                        f"{width:.0f} %",
                        ha="center",
                        va="center",
                        fontsize=7,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.9},
                    )
            left += widths
        axes.set_yticks(places, [f"{row['label']}\n(n = {totals[row['label']]})" for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.set(xlabel="Share of trajectories (%)", xlim=(0, 100))
        handles = [Patch(**bar_style(CATEGORY_LOOKS[name]), label=name.replace("_", " ")) for name in CATEGORIES]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, handlelength=1.6)
    return figure


def _estimates(inputs: Inputs, params: Mapping[str, Any]) -> dict[tuple[str, str], Estimate]:
    return evaluate(inputs, params["rows"], params["benchmarks"], params.get("statistics", {}), pairs=()).estimates


def _bars(axes, places: np.ndarray, found: Sequence[Estimate], width: float, drawn: Look) -> None:
    scores, lows, highs = (100 * np.array([getattr(each, name) for each in found]) for name in ("score", "lo", "hi"))
    axes.bar(places, scores, width, **bar_style(drawn))
    draw_intervals(axes, places, scores, lows, highs)
    for place, score, high in zip(places, scores, highs, strict=True):
        if score < 0.5:  # a bar too low to be seen
            axes.text(place, high + 1.5, f"{score:.0f}", ha="center", va="bottom", fontsize=6.5)


def _mark_tasks(axes, tasks: Sequence[str | None]) -> None:
    """A dashed line where the task changes, and each group's name above it."""
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
    return [Patch(**bar_style(drawn), label=row["label"]) for row, drawn in _drawn(rows)]


def _drawn(rows: Sequence[Mapping]) -> list[tuple[Mapping, Look]]:
    """Rows with their looks."""
    chosen = looks(row.get("style", row["label"]) for row in rows)
    return [(row, chosen[row.get("style", row["label"])]) for row in rows]


def _items(
    estimates: Mapping[tuple[str, str], Estimate], rows: Sequence[Mapping], benchmarks: Sequence[Mapping]
) -> str:
    """How many items stand behind the scores: "n = 30 per benchmark", or each benchmark's number if they differ."""
    sizes = [estimates[rows[0]["label"], each["name"]].n for each in benchmarks]
    if len(set(sizes)) == 1:
        return f"n = {sizes[0]} per benchmark"
    return f"n = {', '.join(map(str, sizes))}"


def _category_counts(inputs: Inputs, models: Sequence[str], benchmarks: Sequence[Mapping]) -> Counter[str]:
    traces = [trace for model in models for each in benchmarks for trace in inputs.traces(model, each["name"])]
    return Counter(category(trace["n_python"], trace["n_search"]) for trace in traces)
