"""Figures: each is drawn from made-up records; texts stay inside the page and apart; looks differ without colour."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import made_up
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from tir.errors import ConfigError, DataError
from tir.figures import DRAWERS, draw, module
from tir.figures.training import curve, validation_key
from tir.plot_style import CATEGORY_LOOKS, LOOKS, look, looks, ordered, save
from tir.tables.inputs import Inputs

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"resamples": 200, "seed": 0}
BARS = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS, "statistics": QUICK}
SETS = {
    "sets": [{"model": "published", "benchmark": each["name"], "task": each["task"]} for each in made_up.BENCHMARKS],
    "statistics": QUICK,
}
PARAMS = {
    "figure1": BARS,
    "figure2": BARS,
    "figure3": SETS,
    "figure4": {"paper": True},
    "figure5": BARS,
    "figure6": BARS,
    "figure7": {},
    "figure8": {},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = made_up.everything(tmp_path_factory.mktemp("records"))
    return Inputs(
        scores=[root / "scores"], traces=[root / "traces"], metrics=[root / "runs" / "rl"], logs=[root / "runs" / "sft"]
    )


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAWERS)
def test_every_figure_is_drawn_and_saved_the_same_twice(inputs, tmp_path, name):
    figure = draw(name, inputs, PARAMS[name])
    written = save(figure, tmp_path / f"{name}.png", config={})
    assert [path.suffix for path in written] == [".png", ".svg"]
    image = plt.imread(written[0])
    assert image.shape[1] >= 900 and image.std() > 0.05 and "<svg" in written[1].read_text()
    assert Path(f"{written[0]}.provenance.json").exists()
    again = save(draw(name, inputs, PARAMS[name]), tmp_path / "again" / f"{name}.png", config={})
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


@pytest.mark.parametrize("name", DRAWERS)
def test_no_text_leaves_the_page_or_covers_another_tick(inputs, name):
    figure = draw(name, inputs, PARAMS[name])
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= -0.01 and drawn.y0 >= -0.01 and drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text() and axes.name != "polar"]
        boxes = [label.get_window_extent() for label in labels if label.get_visible()]
        assert not any(first.overlaps(second) for first, second in combinations(boxes, 2)), (
            f"{name}: tick labels overlap"
        )


def test_figure1_separates_the_tasks_and_draws_every_cell(inputs):
    axes = draw("figure1", inputs, BARS).axes[0]
    bars = [patch for patch in axes.patches if patch.get_width() < 1]
    assert len(bars) == 4 * 8
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(set(line.get_xdata())) == 1]
    assert [line.get_xdata()[0] for line in dashed] == [3.5]
    records = inputs.scores("published", "gsm8k")
    assert bars[0].get_height() == pytest.approx(100 * np.mean([record["em"] for record in records]))


def test_figure3_colours_only_the_targets_and_shows_all_six(inputs):
    axes = draw("figure3", inputs, SETS).axes[0]
    labels = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
    assert len(labels) == 6 and "python → think" in labels
    coloured = {
        label
        for label, bar in zip(labels, axes.patches, strict=True)
        if len(set(np.round(bar.get_facecolor()[:3], 3))) > 1
    }
    assert coloured == {"python → answer", "python → think"}


def test_figure4_and_8_read_verls_names(inputs):
    runs = inputs.metrics("grpo")
    assert validation_key(runs) == "val-core/grpo_mix/reward/mean@1"
    assert validation_key({1: [{"step": 0, "val/test_score/grpo_mix": 0.1}]}) == "val/test_score/grpo_mix"
    steps, values = curve(runs, "critic/score/mean", "grpo")
    assert steps.tolist() == list(range(1, 31)) and values.shape == (3, 30)
    assert curve({1: [{"training/global_step": 4, "a/b": 2}]}, "a/b", "x")[0].tolist() == [4]
    with pytest.raises(DataError, match="actor/loss was not logged.*actor/kl_loss"):
        draw("figure8", inputs, {"metrics": {"actor/loss": "loss"}})
    figure = draw("figure8", inputs, {})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["GRPO, 3 seeds", "ASPO, 3 seeds"] and len(
        figure.axes
    ) == 6


@pytest.mark.parametrize("start", [-0.97, -0.6, 0.0, 0.3])
def test_figure4_shows_all_of_a_curve_of_any_sign(tmp_path, start):
    """A validation score may be negative throughout, as a reward of -1 for a missing format is."""
    for arm, shift in (("grpo", 0.0), ("aspo", 0.001)):
        for seed in (1, 2):
            rows = [{"step": step, "val/test_score/mix": start + 0.03 * number + shift + 0.01 * seed}
                    for number, step in enumerate((0, 15, 30))]
            made_up.write_lines(tmp_path / arm / f"seed{seed}" / "metrics.jsonl", rows)
    figure = draw("figure4", Inputs(metrics=[tmp_path]), {})
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    assert low < values.min() < values.max() < high and np.ptp(values) > 0.05 * (high - low)
    figure.canvas.draw()
    first, second = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert second.y0 > first.y0 + 0.5 * first.height


def test_figure7_marks_the_epochs(inputs):
    left, right = draw("figure7", inputs, {"run": "full"}).axes
    assert [text.get_text() for text in left.texts] == ["414", "828", "1239"]
    assert [text.get_text() for text in right.texts] == ["0.6576", "0.6471", "0.6497"]


def test_unknown_figures_and_missing_parameters_are_named(inputs):
    with pytest.raises(ConfigError, match="figure1, figure2"):
        draw("figure9", inputs, {})
    with pytest.raises(ConfigError, match="it has no sets"):
        draw("figure3", inputs, {})
    with pytest.raises(DataError, match="three benchmarks"):
        draw("figure2", inputs, {**BARS, "benchmarks": made_up.BENCHMARKS[:2]})
    assert module("figure8") == "tir.figures.training"


@pytest.mark.parametrize("looks", [LOOKS, CATEGORY_LOOKS], ids=["models", "categories"])
def test_looks_differ_without_colour(looks):
    def lightness(each):
        return np.dot(to_rgb(each.colour), (0.299, 0.587, 0.114))

    for (first, one), (second, other) in combinations(looks.items(), 2):
        assert one.hatch != other.hatch or abs(lightness(one) - lightness(other)) > 0.15, (
            f"{first} and {second} look alike in grey"
        )
    if looks is LOOKS:
        assert len({each.marker for each in looks.values()}) == len(looks)


def test_labels_that_share_a_look_are_told_apart_in_one_figure():
    shown = ["lambda_0.1", "lambda_1.0", "SFT epoch 1", "SFT epoch 2", "SFT epoch 3", "GRPO @ 30"]
    assert look("lambda_0.1") is look("lambda_1.0")  # four spare looks for any number of names
    assert len(set(looks(shown).values())) == len(shown) and looks(shown)["GRPO @ 30"] is LOOKS["grpo"]
    assert len(looks(f"arm {number}" for number in range(40))) == 40  # more than there are: alike, but drawn


def _grey(colour) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def _bars_alike(one, other) -> bool:
    return (
        one.get_hatch() == other.get_hatch() and abs(_grey(one.get_facecolor()) - _grey(other.get_facecolor())) < 0.15
    )


def _lines_alike(one, other) -> bool:
    dashes = [line._dash_pattern for line in (one, other)]
    markers = [line.get_marker() for line in (one, other)]
    return (
        dashes[0] == dashes[1]
        and markers[0] == markers[1]
        and abs(_grey(one.get_color()) - _grey(other.get_color())) < 0.15
    )


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure4", "figure5", "figure6"])
def test_series_of_a_figure_differ_in_a_grey_print(inputs, name):
    """What is in the legend, as drawn: same hatch and lightness, or same dash, marker and lightness, fails."""
    models = ["sft", "grpo-step30-seed1", "aspo-step30-seed1", "published"]
    labels = ["lambda_0.1", "lambda_1.0", "SFT epoch 1", "SFT epoch 2"]
    rows = [{"label": label, "models": [model]} for label, model in zip(labels, models, strict=True)]
    for shown in (PARAMS[name], PARAMS[name] | {"rows": rows}):
        figure = draw(name, inputs, shown)
        legends = [each for each in (*figure.legends, *(axes.get_legend() for axes in figure.axes)) if each]
        handles = [handle for legend in legends for handle in legend.legend_handles]
        if name == "figure5":  # named on the axis
            handles = list(figure.axes[0].patches)
        alike = _lines_alike if name in ("figure2", "figure4") else _bars_alike
        assert len(handles) >= 3
        assert not any(alike(one, other) for one, other in combinations(handles, 2))


def test_figure3_targets_differ_in_a_grey_print(inputs):
    axes = draw("figure3", inputs, SETS).axes[0]
    bars = {
        label.get_text().replace("\n", " "): bar
        for label, bar in zip(axes.get_xticklabels(), axes.patches, strict=True)
    }
    reward, punished, neutral = (bars[name] for name in ("python → answer", "python → think", "think → search"))
    assert not any(_bars_alike(*pair) for pair in combinations((reward, punished, neutral), 2))


def test_figure3_keeps_the_places_of_bigrams_that_do_not_occur(inputs):
    only_search = {**SETS, "sets": [each for each in SETS["sets"] if each["task"] == "qa"]}
    axes = draw("figure3", inputs, only_search).axes[0]
    assert len(axes.get_xticklabels()) == 6 and len(axes.patches) < 6
    assert sum("occur" in text.get_text() for text in axes.texts) == 6 - len(axes.patches)


def test_figures_say_how_many_items_they_stand_on(inputs):
    assert draw("figure1", inputs, BARS).axes[0].get_xlabel() == "n = 30 per benchmark; 95 % intervals"
    assert "n = 30" in draw("figure2", inputs, BARS).legends[0].get_title().get_text()
    assert draw("figure4", inputs, {"items": 50}).axes[0].get_ylabel() == "Validation score, n = 50"
    assert "(n = 720)" in draw("figure6", inputs, BARS).axes[0].get_yticklabels()[2].get_text()


def test_labels_ids_and_arms_find_their_look():
    for name in ("GRPO @ 30", "grpo-step30-seed2", "grpo"):
        assert look(name) is LOOKS["grpo"]
    assert look("gamma-only @ 30") is look("gamma_only") is LOOKS["gamma_only"]
    assert look("sft-epoch2") is look("SFT init") is LOOKS["sft"] and look("Published Tool-Star") is LOOKS["published"]
    assert look("lambda_0.3") is look("lambda_0.3") and look("lambda_0.3") not in LOOKS.values()
    assert ordered(["zeta", "aspo", "grpo"]) == ["grpo", "aspo", "zeta"]


def test_drawing_leaves_the_callers_settings_alone(inputs):
    before = mpl.rcParams["font.size"]
    draw("figure7", inputs, {})
    assert mpl.rcParams["font.size"] == before


def test_the_script_as_a_rule_calls_it(tmp_path):
    made_up.write_metrics(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.make_figure",
            "--figure",
            "figure4",
            "--metrics",
            tmp_path / "runs" / "rl",
            "--output",
            tmp_path / "figure4.png",
            "--params",
            json.dumps({"arms": ["grpo"]}),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure4.png").exists() and (tmp_path / "figure4.svg").exists()
