"""What a generated run says of itself in every table, figure and caption."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from jinja2 import StrictUndefined, Template
from matplotlib import pyplot as plt
from support import made_up
from support.paths import ROOT

from tir.analysis.figures import FIGURES, draw
from tir.analysis.origin import describe
from tir.analysis.tables import build
from tir.analysis.tables.files import page, to_latex, to_markdown
from tir.analysis.tables.inputs import Inputs
from tir.common.errors import CheckpointError
from tir.common.model_files import count_parameters

TABLE5 = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS}
DECODING = {"temperature": 0.0, "samples": 1}
ORIGIN = {"origin": {"data": "generated world", "model": "base", "seeds": 3}}
LABEL = "generated world, 1.6M parameters, 3 seeds"
CONFIG = dict.fromkeys(
    ("sft", "rl", "arms", "tools", "evaluation", "statistics", "summary", "logs"), {}
)  # what captions read
CONFIG |= {"judge": {"kind": "rules"}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """All records, and a model of 1.6M parameters in two weights files, whose headers have the shapes."""
    root = made_up.everything(tmp_path_factory.mktemp("records"))
    folder = root / "models/base"
    folder.mkdir(parents=True)
    names = []
    for number, shapes in enumerate(([[1000, 1000], [500, 1000]], [[96000]])):
        tensors = {str(key): {"dtype": "F32", "shape": shape} for key, shape in enumerate(shapes)}
        header = json.dumps(tensors | {"__metadata__": {"format": "pt"}}).encode()
        names.append(f"{number}.safetensors")
        (folder / names[-1]).write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "manifest.json").write_text(json.dumps({"sha256": dict.fromkeys(names, "")}))
    return Inputs(
        scores=[root / "scores"],
        traces=[root / "traces"],
        metrics=[root / "runs/rl"],
        logs=[root / "runs/sft"],
        data=[root / "sft.json"],
        model=[folder / "manifest.json"],
    )


def test_the_label_counts_the_parameters_and_seeds_of_the_run(inputs):
    assert count_parameters(inputs.model[0].parent) == 1_596_000
    assert describe(ORIGIN, inputs.model) == LABEL and describe({}, inputs.model) == ""
    assert describe({"origin": ORIGIN["origin"] | {"seeds": 1}}, inputs.model).endswith(", 1 seed")
    assert describe(ORIGIN, []) == "generated world, 3 seeds"


@pytest.mark.parametrize("content", [b"", b"\x09\0\0\0\0\0\0\0{"])
def test_an_incomplete_model_has_no_number_of_parameters(tmp_path, content):
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {"model.safetensors": ""}}))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="unreadable weights"):
        count_parameters(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="unreadable weights or manifest"):
        count_parameters(tmp_path)


def test_every_table_of_a_generated_run_says_so_and_shows_no_number_of_the_paper(inputs):
    rows = [{key: value for key, value in row.items() if key != "paper"} for row in made_up.ROWS]
    sets = [{"model": "published", "benchmark": "gsm8k", "task": "math"}]
    params = (
        TABLE5 | {"rows": rows, "sets": sets, "decoding": DECODING, "run": "full", "arms": ["grpo", "aspo"]} | ORIGIN
    )
    made = ("behaviour", "shaping", *(f"table{number}" for number in (1, 2, 3, 4, 5, 6, 11, 12, 13)))
    for name in made:
        tables = build(name, inputs, params)
        assert "paper" not in tables, name
        for suffix, table in tables.items():
            assert table.caption.endswith(f"({LABEL})"), (name, suffix)
            assert "paper" not in table.columns or not any(row[table.columns.index("paper")] for row in table.rows)
        for text in (to_markdown(tables[""]), to_latex(tables[""]), page(tables)):
            assert LABEL in text, name
    real = build("table5", inputs, params | {"origin": None})
    assert "paper" in real and LABEL not in to_markdown(real[""])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_a_generated_run_says_so(inputs, name):
    sets = [{"model": "published", "benchmark": each["name"], "task": each["task"]} for each in made_up.BENCHMARKS]
    params = TABLE5 | {"sets": sets, "run": "full", "decoding": DECODING} | ORIGIN
    figure = draw(name, inputs, params)
    figure.canvas.draw()
    text = figure._supxlabel
    box = text.get_window_extent()
    assert text.get_text() == LABEL and box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width
    labels = [axes.xaxis.label for axes in figure.axes]
    assert not any(box.overlaps(each.get_window_extent()) for each in labels if each.get_text())
    plt.close("all")


@pytest.mark.parametrize("path", sorted((ROOT / "docs/captions").glob("*.rst")), ids=lambda path: path.stem)
def test_every_caption_of_a_generated_run_says_so(path: Path):
    template = Template(path.read_text(encoding="utf-8"), undefined=StrictUndefined)
    generated, real = (template.render(snakemake={"config": CONFIG | {"origin": each}}) for each in (LABEL, ""))
    assert LABEL in generated and "generated" not in real
    assert "the paper's cells" not in generated and "the paper's number" not in generated


def test_the_report_opens_on_the_sentences_of_the_summary():
    template = Template((ROOT / "docs/captions/workflow.rst").read_text(encoding="utf-8"))
    config = CONFIG | {"origin": LABEL, "summary": {"What was run": ["gamma_only: 2 * 3"]}}
    text = template.render(snakemake={"config": config})
    assert text.split()[:7] == ["**What", "was", "run**", "-", r"gamma\_only:", "2", r"\*"]
