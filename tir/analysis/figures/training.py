"""Figures of training: validation score over RL steps (4), SFT losses (7), RL metrics of each arm (8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from tir.analysis.numbers import fixed
from tir.analysis.plot_style import LOOKS, TEXT_WIDTH, Look, line_style, looks, ordered, style
from tir.analysis.tables.curves import curve, validation_key
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.training import sft_log

TELEMETRY = {
    "critic/score/mean": "Mean score",
    "actor/entropy_loss": "Policy entropy\n(nats per token)",
    "response_length/mean": "Response length\n(tokens)",
}


def validation_curve(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 4: validation score over RL steps, one line per arm, mean over seeds with their range.

    Params: arms (default: all with metrics); validation_key: metric name (default: see `validation_key`); items: number
    of rows of the validation set, printed on the axis; paper: true draws the paper's GRPO values as crosses.
    """
    from tir.analysis.tables.reference import paper

    arms = params.get("arms") or ordered(inputs.arms())
    key = params.get("validation_key") or validation_key(inputs.metrics(arms[0]))
    curves = {arm: curve(inputs.metrics(arm), key, arm) for arm in arms}
    chosen = looks(arms)
    with style():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH * 0.72, 2.5))
        for arm, (steps, values) in curves.items():
            _line(axes, steps, values, chosen[arm], _name(arm, len(values)))
        if params.get("paper"):
            published = paper()["figure4"]
            axes.plot(published["steps"], published["score"], "x", color="#4d4d4d", label="paper, GRPO")
        items = f", n = {params['items']}" if params.get("items") else ""
        axes.set(xlabel="Training step", ylabel=f"Validation score{items}")
        low, high = min(0, axes.get_ylim()[0]), axes.get_ylim()[1]
        axes.set_ylim(low, high + 0.1 * (high - low))  # leave space for labels; all scores may be negative
        _label_ends(axes, curves, chosen, gap=14 if params.get("paper") else 6)
        axes.margins(x=0.08)
        ticks = sorted({step for steps, _ in curves.values() for step in steps})
        axes.set_xticks(ticks[:: -(-len(ticks) // 8)])  # at most eight of them
        axes.legend(loc="lower right")
    return figure


def sft_losses(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 7: (a) training loss per step with the ends of epochs, (b) evaluation loss at each end; params: run."""
    log = sft_log(inputs, params.get("run") or inputs.runs[0])
    steps, losses = np.array(log.losses).T
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.3), width_ratios=(1.7, 1))
        smooth = _smooth(losses)
        if smooth is not None:
            left.plot(steps, losses, color=LOOKS["sft"].colour, alpha=0.45, linewidth=0.6, label="as logged")
        left.plot(steps, losses if smooth is None else smooth, color="#1f4e79", linewidth=1.2, label="smoothed")
        top = np.quantile(losses, 0.999, method="higher") * 1.03
        left.set(xlabel="Training step", ylabel="Training loss", title="(a) training", ylim=(None, top))
        if smooth is not None:
            left.legend(loc="center", frameon=True, edgecolor="none", framealpha=1)
        for step, _ in log.evaluations:
            left.axvline(step, color="#777777", linestyle=(0, (3, 2)), linewidth=0.7)
            left.annotate(
                f"{step}",
                (step, 0.985),
                xycoords=("data", "axes fraction"),
                xytext=(-2, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
                fontsize=6.5,
                color="#555555",
            )
        right.set(title="(b) held out", xlabel="Training step", ylabel="Evaluation loss")
        if log.evaluations:
            places, values = np.array(log.evaluations).T
            right.plot(places, values, **line_style(LOOKS["published"]))
            spread = max(np.ptp(values), 1e-3)
            best = int(np.argmin(values))
            for position, (place, value) in enumerate(zip(places, values, strict=True)):
                right.annotate(
                    fixed(value, 4),
                    (place, value),
                    # The loss falls, so the space above and to the right of the line is free.
                    xytext=(0 if position in (best, len(values) - 1) else 4, -7 if position == best else 5),
                    textcoords="offset points",
                    ha="center" if position in (best, len(values) - 1) else "left",
                    va="top" if position == best else "bottom",
                    fontsize=6.5,
                )
            right.set(xticks=places, ylim=(values.min() - 0.45 * spread, values.max() + 0.35 * spread))
            right.margins(x=0.22)
            right.yaxis.set_major_locator(MaxNLocator(5))
    return figure


def telemetry(inputs: Inputs, params: Mapping[str, Any]) -> Figure:
    """Figure 8: score, entropy and response length over steps, one column per arm, one row per metric.

    The paper shows the policy loss. With one update per batch that is minus the mean advantage, whatever the policy
    does: 0 for GRPO, and for ASPO the offset of phi. The panels of a row share one scale, so arms can be compared.
    Params: arms (default: all); metrics: {name: axis title}.
    """
    arms = params.get("arms") or ordered(inputs.arms())
    metrics = params.get("metrics") or TELEMETRY
    with style():
        figure, grid = plt.subplots(
            len(metrics),
            len(arms),
            figsize=(max(2.8, min(TEXT_WIDTH, 2.75 * len(arms))), 1.45 * len(metrics)),
            sharex=True,
            sharey="row",
            squeeze=False,
        )
        for column, (arm, look) in enumerate(looks(arms).items()):
            # A column shows one arm, so dashes need not distinguish arms; they would hide a noisy line.
            look = replace(look, dash="-", marker="")
            runs = inputs.metrics(arm)
            for row, (key, title) in enumerate(metrics.items()):
                axes = grid[row, column]
                _line(axes, *curve(runs, key, arm), look, arm)
                if column == 0:
                    axes.set_ylabel(title)
                if row == 0:
                    axes.set_title(_name(arm, len(runs)))
                if row == len(metrics) - 1:
                    axes.set_xlabel("Training step")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.align_ylabels(grid[:, 0])
    return figure


def _line(axes, steps: np.ndarray, values: np.ndarray, look: Look, label: str) -> None:
    """Draw the mean over seeds, with the range of the seeds shaded."""
    axes.plot(steps, values.mean(axis=0), **line_style(look), label=label)
    if len(values) > 1:
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.18, linewidth=0)


def _label_ends(
    axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: Mapping[str, Look], gap: int
) -> None:
    """Print each line's last value `gap` points to its right, with a minimum vertical distance between the values.

    Call it after the limits of the axes are set: the minimum distance is 5.5 % of their height.
    """
    ends = sorted((float(values.mean(axis=0)[-1]), int(steps[-1]), arm) for arm, (steps, values) in curves.items())
    distance = 0.055 * np.ptp(axes.get_ylim())
    places = [value for value, _, _ in ends]
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + distance)
    shift = np.mean(places) - np.mean([value for value, _, _ in ends])  # keep the labels centred on the values
    for place, (value, step, arm) in zip(places, ends, strict=True):
        axes.annotate(
            fixed(value, 3).replace("-", "−"),
            (step, place - shift),
            xytext=(gap, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=6.5,
            color=_dark(chosen[arm].colour),
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )


def _smooth(values: np.ndarray) -> np.ndarray | None:
    """Centred triangular average over about a thirtieth of the run; None for a log of fewer than 60 values."""
    half = len(values) // 60
    if not half:
        return None
    kernel = np.bartlett(2 * half + 3)[1:-1]
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones_like(values), kernel, mode="same")


def _dark(colour: str) -> tuple[float, ...]:
    """A darker shade, for text."""
    return tuple(0.65 * channel for channel in to_rgb(colour))


def _name(arm: str, seeds: int) -> str:
    name = arm.upper() if arm in ("grpo", "aspo") else arm.replace("_", "-")
    return f"{name}, {seeds} seed{'s' if seeds > 1 else ''}"
