"""Figures, drawn from generated records: texts stay inside the page and do not overlap; looks differ without colour."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from support import made_up
from support.paths import ROOT

from tir.analysis.figures import FIGURES, draw, kind
from tir.analysis.figures.training import curve, validation_key
from tir.analysis.plot_style import CATEGORY_LOOKS, LOOKS, look, looks, ordered, save
from tir.analysis.tables import build
from tir.analysis.tables.inputs import Inputs
from tir.common.errors import ConfigError, DataError

BARS = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS}
SETS = {
    "sets": [{"model": "published", "benchmark": each["name"], "task": each["task"]} for each in made_up.BENCHMARKS],
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
    "figure9": BARS,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = made_up.everything(tmp_path_factory.mktemp("records"))
    return Inputs(
        scores=[root / "scores"], traces=[root / "traces"], metrics=[root / "runs" / "rl"], logs=[root / "runs" / "sft"]
    )


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_saved_with_the_same_bytes_twice(inputs, tmp_path, name):
    figure = draw(name, inputs, PARAMS[name])
    written = save(figure, tmp_path / f"{name}.png", config={})
    assert [path.suffix for path in written] == [".png", ".svg"]
    image = plt.imread(written[0])
    assert image.shape[1] >= 900 and image.std() > 0.05 and "<svg" in written[1].read_text()
    assert Path(f"{written[0]}.provenance.json").exists()
    again = save(draw(name, inputs, PARAMS[name]), tmp_path / "again" / f"{name}.png", config={})
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


@pytest.mark.parametrize("name", FIGURES)
def test_texts_stay_inside_the_page_and_tick_labels_do_not_overlap(inputs, name):
    figure = draw(name, inputs, PARAMS[name])
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01
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


def test_figure3_shows_every_bigram_that_occurs_and_colours_only_the_two_targets(inputs):
    axes = draw("figure3", inputs, SETS | {"decoding": {"temperature": 1.0, "samples": 4}}).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    table = build("table3", inputs, SETS)[""]
    assert {label.replace(" ", "") for label in labels} == {row[0] for row in table.rows} and len(labels) == 7
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths, reverse=True) and "python → python" in labels
    assert axes.get_title() == "published: 240 trajectories of 240 questions,\nsampled at temperature 1"
    coloured = {
        label
        for label, bar in zip(labels, axes.patches, strict=True)
        if len(set(np.round(bar.get_facecolor()[:3], 3))) > 1
    }
    assert coloured == {"python → answer", "python → think"}


def test_figures_4_and_8_read_the_metric_names_of_verl_and_of_the_upstream_fork(inputs):
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
def test_figure4_shows_the_whole_curve_for_negative_scores_too(tmp_path, start):
    """All validation scores may be negative: the reward of a malformed answer is -1."""
    for arm, shift in (("grpo", 0.0), ("aspo", 0.001)):
        for seed in (1, 2):
            rows = [
                {"step": step, "val/test_score/mix": start + 0.03 * number + shift + 0.01 * seed}
                for number, step in enumerate((0, 15, 30))
            ]
            made_up.write_lines(tmp_path / arm / f"seed{seed}" / "metrics.jsonl", rows)
    figure = draw("figure4", Inputs(metrics=[tmp_path]), {})
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    assert low < values.min() < values.max() < high and np.ptp(values) > 0.05 * (high - low)
    figure.canvas.draw()
    first, second = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert second.y0 > first.y0 + 0.5 * first.height


def test_figure7_marks_the_end_of_every_epoch(inputs):
    left, right = draw("figure7", inputs, {"run": "full"}).axes
    assert [text.get_text() for text in left.texts] == ["414", "828", "1239"]
    assert [text.get_text() for text in right.texts] == ["0.6576", "0.6471", "0.6497"]


def test_errors_name_an_unknown_figure_and_a_missing_parameter(inputs):
    with pytest.raises(ConfigError, match="figure1, figure2"):
        draw("figure10", inputs, {})
    with pytest.raises(ConfigError, match="it has no sets"):
        draw("figure3", inputs, {})
    assert kind("figure8").module == "tir.analysis.figures.training"


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


def test_labels_of_one_figure_get_different_looks():
    shown = ["lambda_0.1", "lambda_1.0", "SFT epoch 1", "SFT epoch 2", "SFT epoch 3", "GRPO @ 30"]
    assert look("lambda_0.1") is look("lambda_1.0")  # four spare looks for any number of names
    assert len(set(looks(shown).values())) == len(shown) and looks(shown)["GRPO @ 30"] is LOOKS["grpo"]
    assert len(looks(f"arm {number}" for number in range(40))) == 40  # more labels than looks: some looks repeat


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
    """Two legend entries must not share hatch and lightness (bars), nor dash, marker and lightness (lines)."""
    models = ["sft", "grpo-step30-seed1", "aspo-step30-seed1", "published"]
    labels = ["lambda_0.1", "lambda_1.0", "SFT epoch 1", "SFT epoch 2"]
    rows = [{"label": label, "models": [model]} for label, model in zip(labels, models, strict=True)]
    for shown in (PARAMS[name], PARAMS[name] | {"rows": rows}):
        figure = draw(name, inputs, shown)
        legends = [each for each in (*figure.legends, *(axes.get_legend() for axes in figure.axes)) if each]
        handles = [handle for legend in legends for handle in legend.legend_handles]
        if name == "figure5":  # no legend: the axis names the models
            handles = list(figure.axes[0].patches)
        alike = _lines_alike if name in ("figure2", "figure4") else _bars_alike
        assert len(handles) >= 3
        assert not any(alike(one, other) for one, other in combinations(handles, 2))


def test_figure3_targets_differ_in_a_grey_print(inputs):
    axes = draw("figure3", inputs, SETS).axes[0]
    bars = {label.get_text(): bar for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    targets_and_neutral = [bars[name] for name in ("python → answer", "python → think", "think → search")]
    assert not any(_bars_alike(*pair) for pair in combinations(targets_and_neutral, 2))


def test_figure2_has_a_dot_and_an_interval_for_every_cell(inputs):
    axes = draw("figure2", inputs, BARS).axes[0]
    dots = [line for line in axes.lines if line.get_linestyle() == "None" or line.get_marker() not in ("None", "")]
    assert [len(line.get_xdata()) for line in dots] == [8] * 4 and len(axes.collections) == 4
    assert len(set(np.concatenate([line.get_ydata() for line in dots]))) == 8 * 4  # none hides another


def test_figure6_is_a_sentence_if_all_trajectories_are_alike(tmp_path):
    trace = {"id": "1", "n_python": 1, "n_search": 0}
    for model in ("a", "b"):
        made_up.write_lines(tmp_path / f"traces/{model}/gsm8k.jsonl", [trace] * 5)
    rows = [{"label": label, "models": [label.lower()]} for label in "AB"]
    params = {"rows": rows, "benchmarks": [{"name": "gsm8k", "label": "GSM8K"}]}
    (text,) = draw("figure6", Inputs(traces=[tmp_path / "traces"]), params).axes[0].texts
    assert text.get_text() == "GSM8K: all 10 trajectories of A and B are of one kind: python once"
    made_up.write_lines(tmp_path / "traces/b/gsm8k.jsonl", [trace, trace | {"n_python": 4}])
    figure = draw("figure6", Inputs(traces=[tmp_path / "traces"]), params)
    assert [each.get_text() for each in figure.legends[0].texts] == ["python once", "python three times or more"]


def test_figure9_shows_each_seed_and_starts_at_0(inputs):
    panels = draw("figure9", inputs, BARS).axes
    assert len(panels) == 6 and all(axes.get_xlim()[0] == 0 for axes in panels)
    seeds = [line for line in panels[0].lines if line.get_marker() == "|"]
    assert [len(line.get_xdata()) for line in seeds] == [3, 3]


def test_figures_print_the_number_of_items(inputs):
    assert draw("figure1", inputs, BARS).axes[0].get_xlabel() == "n = 30 per benchmark; 95 % intervals"
    assert "n = 30" in draw("figure2", inputs, BARS).axes[0].get_xlabel()
    assert draw("figure4", inputs, {"items": 50}).axes[0].get_ylabel() == "Validation score, n = 50"
    assert "(n = 720)" in draw("figure6", inputs, BARS).axes[0].get_yticklabels()[2].get_text()


def test_a_look_is_found_by_label_model_id_or_arm():
    for name in ("GRPO @ 30", "grpo-step30-seed2", "grpo"):
        assert look(name) is LOOKS["grpo"]
    assert look("gamma-only @ 30") is look("gamma_only") is LOOKS["gamma_only"]
    assert look("sft-epoch2") is look("SFT init") is LOOKS["sft"] and look("Published Tool-Star") is LOOKS["published"]
    assert look("lambda_0.3") is look("lambda_0.3") and look("lambda_0.3") not in LOOKS.values()
    assert ordered(["zeta", "aspo", "grpo"]) == ["grpo", "aspo", "zeta"]


def test_drawing_does_not_change_matplotlibs_settings(inputs):
    before = mpl.rcParams["font.size"]
    draw("figure7", inputs, {})
    assert mpl.rcParams["font.size"] == before


def test_the_script_writes_png_and_svg(tmp_path):
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
