"""Tables: the paper's columns, its own arithmetic, and every aggregate recomputed by hand from made-up records."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import made_up
import numpy as np
import pytest

from tir.errors import ConfigError, DataError
from tir.tables import BUILDERS, build, module
from tir.tables.files import write_tables
from tir.tables.inputs import Inputs
from tir.tables.layout import Table
from tir.tables.page import page
from tir.tables.reference import beside, paper, published_cell
from tir.tables.training import clock, describe_module
from tir.targets import PAPER_TABLES

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"resamples": 300, "seed": 0}
TABLE5 = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS, "statistics": QUICK}
SETS = [{"model": "published", "benchmark": each["name"], "task": each["task"]} for each in made_up.BENCHMARKS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made_up.everything(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def inputs(root):
    return Inputs(
        scores=[root / "scores"],
        traces=[root / "traces"],
        metrics=[root / "runs" / "rl"],
        logs=[root / "runs" / "sft"],
        data=[root / "sft.json"],
    )


def _records(root, model, benchmark):
    return [json.loads(line) for line in (root / "scores" / model / f"{benchmark}.jsonl").read_text().splitlines()]


# --- Tables 5 and 6 ----------------------------------------------------------------------------------------------


def test_table5_has_the_papers_columns_and_recomputes_every_cell(root, inputs):
    text = build("table5", inputs, TABLE5)[""].csv()
    assert text.splitlines()[0] == "model,GSM8K,MATH500,AIME24,AIME25,HotpotQA,2Wiki,Bamb,MuSiQue,Avg"
    rows = {row["model"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == ["published", "SFT", "GRPO @ 30", "ASPO @ 30"]
    for row in made_up.ROWS:
        means = []
        for each in made_up.BENCHMARKS:
            pooled = [
                record[each["metric"]] for model in row["models"] for record in _records(root, model, each["name"])
            ]
            means.append(np.mean(pooled))
            assert rows[row["label"]][each["label"]] == f"{100 * means[-1]:.1f}"
        assert rows[row["label"]]["Avg"] == f"{100 * np.mean(means):.1f}"  # of unrounded cells


def test_exact_match_is_a_whole_number_of_answers(inputs):
    detail = build("table5", inputs, TABLE5)["detail"]
    cells = [dict(zip(detail.columns, row, strict=True)) for row in detail.rows]
    exact = [row for row in cells if (row["metric"], row["seeds"]) == ("em", 1) and row["benchmark"] != "math"]
    assert len(exact) == 8
    for row in exact:
        assert float(row["score"]) / 100 * row["n"] == pytest.approx(
            round(float(row["score"]) / 100 * row["n"]), abs=1e-4
        )


def test_companions_hold_intervals_and_paired_comparisons(inputs):
    tables = build("table5", inputs, TABLE5)
    detail = [dict(zip(tables["detail"].columns, row, strict=True)) for row in tables["detail"].rows]
    assert {row["benchmark"] for row in detail} == {
        *(each["label"] for each in made_up.BENCHMARKS),
        "Avg",
        "math",
        "qa",
    }
    for row in detail:
        assert float(row["lo"]) <= float(row["score"]) <= float(row["hi"]) and row["method"]
    cell = next(row for row in detail if (row["model"], row["benchmark"]) == ("ASPO @ 30", "MuSiQue"))
    assert (cell["paper"], cell["seeds"], cell["metric"]) == (20.5, 3, "f1")
    pairs = [dict(zip(tables["comparisons"].columns, row, strict=True)) for row in tables["comparisons"].rows]
    assert len(pairs) == 6 * (8 + 3)
    last = next(row for row in pairs if (row["a"], row["b"], row["benchmark"]) == ("ASPO @ 30", "GRPO @ 30", "Avg"))
    scores = {row["model"]: float(row["score"]) for row in detail if row["benchmark"] == "Avg"}
    assert float(last["difference"]) == pytest.approx(scores["ASPO @ 30"] - scores["GRPO @ 30"], abs=2e-4)
    assert float(last["p"]) <= float(last["holm_p"]) and float(last["mde"]) > 0 and last["verdict"]


def test_files_on_disk_are_complete_and_reproducible(inputs, tmp_path):
    def write(folder):
        return write_tables(build("table5", inputs, TABLE5), folder / "table5.csv", config=TABLE5, seed=0)

    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert [path.name for path in first] == [
        "table5.csv",
        "table5.md",
        "table5.tex",
        "table5.html",
        "table5_detail.csv",
        "table5_comparisons.csv",
        "table5_variance.csv",
        "table5_paper.csv",
    ]
    for path, other in zip(first, second, strict=True):
        assert path.read_bytes() == other.read_bytes()
        assert json.loads(Path(f"{path}.provenance.json").read_text())["config"]["benchmarks"][0]["name"] == "gsm8k"


def test_best_cells_are_bold_and_latex_is_balanced(inputs):
    table = build("table5", inputs, TABLE5)[""]
    for column in range(1, 10):
        values = [float(row[column]) for row in table.rows]
        assert {row for row, place in table.bold if place == column} == {
            row for row, value in enumerate(values) if value == max(values)
        }
    text = table.latex()
    assert text.count("{") == text.count("}") and text.count(r"\textbf") == len(table.bold) and text.count("&") == 9 * 5
    assert table.markdown().count("**") == 2 * (len(table.bold) + 1)


def test_the_page_of_a_table_holds_its_companions_and_escapes(inputs):
    tables = build("table5", inputs, TABLE5)
    tables[""].notes.append("a <b> & 'c'")
    text = page(tables)
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n").replace('<meta charset="utf-8">', ""))
    shown = [["".join(cell.itertext()) for cell in row] for row in root.find("body/table").findall("tr")]
    assert shown == [tables[""].columns, *tables[""].rows]
    assert len(root.findall("body/table//b")) == len(tables[""].bold)
    assert [len(each.findall(".//tr")) - 1 for each in root.findall("body/details")] == [
        len(tables[suffix].rows) for suffix in ("detail", "comparisons", "variance", "paper")
    ]
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;" in text


def test_the_papers_cells_stand_beside_ours(inputs):
    tables = build("table5", inputs, TABLE5)
    ours = {row[0]: dict(zip(tables[""].columns, row, strict=True)) for row in tables[""].rows}
    found = {(row, column): (printed, here) for row, column, printed, here in tables["paper"].rows}
    assert len(found) == 4 * 9
    assert found["ASPO @ 30", "MuSiQue"] == (20.5, ours["ASPO @ 30"]["MuSiQue"])
    run = build("table13", inputs, {"run": "full"})
    assert {row[0]: row[2:] for row in run["paper"].rows}["steps"] == [1239, 1239]
    assert beside("terms", tables[""]) is None
    for name in PAPER_TABLES:  # all thirteen, and every cell has its column
        assert beside(name, tables[""]).rows, name


def test_table3_says_when_the_contrast_is_not_measured(inputs):
    search = [each for each in made_up.BENCHMARKS if each["task"] == "qa"]
    sets = [{"model": "published", "benchmark": each["name"], "task": "qa"} for each in search]
    tables = build("table3", inputs, {"sets": sets, "statistics": {"resamples": 100}})
    assert not tables["tests"].rows and tables[""].notes[-1].endswith("one does not occur.")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_within_the_line(inputs, tmp_path):
    wide = Table(
        "Wide − as few are",
        ["name", *(f"a long title {k}" for k in range(12))],
        [["x", *range(12)]],
        notes=["n = 3 → ±1."],
    )
    texts = Table("Words", ["claim", "why"], [["a claim of several words " * 4, "a reason " * 12]])
    long = Table(
        "Long", ["claim", "value"], [["a claim of several words " * 4, -row] for row in range(120)], notes=["End."]
    )
    for name, table in {
        "wide": wide,
        "texts": texts,
        "long": long,
        "table5": build("table5", inputs, TABLE5)[""],
    }.items():
        document = (
            r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{array,booktabs,graphicx,longtable}\begin{document}"
            + table.latex()
            + r"\end{document}"
        )
        (tmp_path / f"t_{name}.tex").write_text(document, encoding="utf-8")
        call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"t_{name}.tex"]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout and "too large" not in done.stdout, name


def test_latex_breaks_long_texts_and_long_tables_and_prints_minus():
    text = "several words that do not fit into a column of a page"
    table = Table("A", ["what", "n"], [[text, -1.5], ["b-2", 3]])
    assert r"p{0.64\linewidth}r" in table.latex() and "$-$1.5" in table.latex() and "b-2" in table.latex()
    assert "longtable" not in table.latex() and "longtable" in Table("A", ["n"], [[row] for row in range(41)]).latex()


def test_special_characters_survive_latex():
    table = Table("50 % of a_b & c", ["x<y", "n"], [["α→β #1 {z}", 3]])
    assert r"50 \% of a\_b \& c" in table.latex() and r"x\textless{}y" in table.latex() and r"\{z\}" in table.latex()
    assert table.csv() == "x<y,n\nα→β #1 {z},3\n"


def test_models_must_have_answered_the_same_items(root, tmp_path):
    made_up.write_scores(tmp_path, ["published"], n=30)
    made_up.write_scores(tmp_path, ["sft"], n=29)
    with pytest.raises(DataError, match="different items"):
        build("table5", Inputs(scores=[tmp_path / "scores"]), {**TABLE5, "rows": made_up.ROWS[:2]})
    with pytest.raises(DataError, match="no scores of grpo-step30-seed1/gsm8k"):
        build("table5", Inputs(scores=[tmp_path / "scores"]), {**TABLE5, "rows": made_up.ROWS[2:]})


def test_a_missing_parameter_and_a_missing_metric_are_named(inputs):
    with pytest.raises(ConfigError, match="it has no benchmarks"):
        build("table5", inputs, {"rows": made_up.ROWS})
    judged = [{**each, "metric": "judge"} for each in made_up.BENCHMARKS[:1]]
    with pytest.raises(DataError, match="score record has no judge"):
        build("table5", inputs, {**TABLE5, "benchmarks": judged})
    with pytest.raises(DataError, match="same label"):
        build("table5", inputs, {**TABLE5, "rows": [made_up.ROWS[0], made_up.ROWS[0]]})


def test_another_table_has_table_5s_layout_and_its_own_module(inputs):
    assert (
        module("ablations") == module("table6") == "tir.tables.accuracy" and module("table13") == "tir.tables.training"
    )
    assert build("ablations", inputs, TABLE5)[""].rows == build("table6", inputs, TABLE5)[""].rows


# --- the paper's own numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["table5", "table6"])
def test_the_papers_averages_follow_from_its_cells(table):
    for name, cells in paper()[table].items():
        if name != "columns":
            assert np.mean(cells[:-1]) == pytest.approx(cells[-1], abs=0.051)


def test_the_papers_headline_numbers_are_recomputed_not_copied():
    table5, table6, claims = paper()["table5"], paper()["table6"], paper()["claims"]
    mean = {name: np.mean(cells[:-1]) for name, cells in (table5 | table6).items() if name != "columns"}
    qa = {name: np.mean(cells[4:8]) for name, cells in table5.items() if name != "columns"}
    assert mean["ASPO @ 30"] - mean["GRPO @ 30"] == pytest.approx(
        claims["aspo_minus_grpo_macro"]["recomputed"], abs=0.005
    )
    assert mean["ASPO @ 30"] / mean["published"] == pytest.approx(
        claims["aspo_share_of_published"]["recomputed"], abs=0.0005
    )
    assert mean["gamma-only @ 30"] / mean["published"] == pytest.approx(
        claims["gamma_only_share_of_published"]["recomputed"], abs=0.0005
    )
    assert qa["ASPO @ 30"] - qa["GRPO @ 30"] == pytest.approx(claims["aspo_minus_grpo_qa"]["recomputed"], abs=0.005)
    exact = table5["GRPO @ 30"][1] * 30 / 100
    assert abs(exact - round(exact)) > 0.1  # MATH500 of the RL rows cannot be exact match at n = 30


def test_paper_cells_are_found_by_row_and_column():
    assert published_cell("table5", "ASPO @ 30", "Avg") == 34.7
    assert (
        published_cell("table5", None, "Avg")
        is published_cell("table5", "ours", "Avg")
        is published_cell("other", "SFT", "Avg")
        is None
    )
    assert published_cell("table1", "sft", "GSM8K") == 83.3 and published_cell("table1", "published", "Avg") == 35.0
    assert published_cell("table11", "published", "GSM8K") == published_cell("table12", "published", "GSM8K") == 73.3
    assert published_cell("table9", "samples", "value") is published_cell("table11", "published", "MATH500") is None
    assert sum(paper()["table2"][name][0] for name in ("python_only", "search_only", "no_tools", "mixed")) == 53971


# --- the other tables --------------------------------------------------------------------------------------------


def test_table1_counts_written_and_executed_calls(root, inputs, tmp_path):
    tables = build("table1", inputs, {**TABLE5, "rows": made_up.ROWS[:2]})
    header = tables[""].columns
    assert header == [
        "benchmark",
        "acc_published",
        "acc_SFT",
        "python_published",
        "python_SFT",
        "search_published",
        "search_SFT",
    ]
    assert [row[0] for row in tables[""].rows][-1] == "Avg" and len(tables[""].rows) == 9
    traces = [json.loads(line) for line in (root / "traces" / "sft" / "hotpotqa.jsonl").read_text().splitlines()]
    hotpot = dict(zip(header, tables[""].rows[4], strict=True))
    assert (
        hotpot["search_SFT"] == f"{np.mean([trace['n_search'] for trace in traces]):.2f}"
        and hotpot["python_SFT"] == "0.00"
    )

    over = {
        **traces[0],
        "segments": [
            {"by": "model", "text": "<search>a</search>"},
            {"by": "tool", "text": "<search>no</search>"},
            {"by": "model", "text": "<search>b</search>"},
        ],
        "n_search": 1,
    }
    made_up.write_lines(tmp_path / "traces" / "m" / "hotpotqa.jsonl", [over, {**over, "id": "1"}])
    made_up.write_lines(tmp_path / "scores" / "m" / "hotpotqa.jsonl", _records(root, "sft", "hotpotqa")[:2])
    tables = build(
        "table1",
        Inputs(scores=[tmp_path / "scores"], traces=[tmp_path / "traces"]),
        {"rows": [{"label": "m", "models": ["m"]}], "benchmarks": made_up.BENCHMARKS[4:5], "statistics": QUICK},
    )
    assert tables[""].rows[0][3] == "2.00"  # tags the model wrote; one in a tool result is text
    assert tables["calls"].rows[1] == ["m", "hotpotqa", "search", "2.0000", "1.0000"]


def test_table2_reads_only_what_the_model_wrote(inputs):
    rows = {row[0]: row[1:] for row in build("table2", inputs, {})[""].rows}
    assert rows == {
        "python_only": [67, "67.00"],
        "search_only": [24, "24.00"],
        "no_tools": [9, "9.00"],
        "mixed": [0, "0.00"],
        "total": [100, "100.00"],
    }


def _behaviour_inputs(folder, trajectories):
    """Records of hand-made math trajectories: [(action tags, correct)]."""
    close = {
        "answer": "<answer>\\boxed{1}</answer>",
        "think": "<think>t</think>",
        "python": "<python>1</python>",
        "search": "<search>q</search>",
    }
    traces, scores = [], []
    for number, (tags, correct) in enumerate(trajectories):
        segments = []
        for tag in tags:
            segments.append({"by": "model", "text": close[tag]})
            if tag in ("python", "search"):
                segments.append({"by": "tool", "text": "<result>\n<think>no</think>\n</result>"})
        traces.append(
            {
                "id": str(number),
                "sample": 0,
                "segments": segments,
                "n_python": tags.count("python"),
                "n_search": 0,
                "first_tool_offset": 100 * number if "python" in tags else -1,
            }
        )
        scores.append({"id": str(number), "sample": 0, "correct": correct})
    made_up.write_lines(folder / "traces" / "m" / "gsm8k.jsonl", traces)
    made_up.write_lines(folder / "scores" / "m" / "gsm8k.jsonl", scores)
    return Inputs(scores=[folder / "scores"], traces=[folder / "traces"])


def test_table3_counts_occurrences_and_tests_the_papers_contrast(tmp_path):
    closing, rethinking = ["think", "python", "answer"], ["think", "python", "think", "answer"]
    trajectories = (
        [(closing, True)] * 29 + [(closing, False)] * 7 + [(rethinking, True)] * 4 + [(rethinking, False)] * 20
    )
    tables = build(
        "table3",
        _behaviour_inputs(tmp_path, trajectories),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}], "statistics": QUICK},
    )
    rows = {row[0]: dict(zip(tables[""].columns, row, strict=True)) for row in tables[""].rows}
    assert set(rows) == {"python→answer", "think→python", "python→think", "think→answer"}
    first, second = rows["python→answer"], rows["python→think"]
    assert (first["n_correct"], first["n_incorrect"], first["p"], first["lo"], first["hi"]) == (
        29,
        7,
        "0.806",
        "0.650",
        "0.902",
    )
    assert (second["n_correct"], second["n_incorrect"], second["p"], second["lo"], second["hi"]) == (
        4,
        20,
        "0.167",
        "0.067",
        "0.359",
    )
    assert float(tables["tests"].rows[0][-1]) == pytest.approx(1.1e-6, rel=0.05)
    assert 0.3 < float(tables["tests"].rows[0][3]) < 0.64 < float(tables["tests"].rows[0][4]) < 0.9
    assert tables["by_task"].rows[0][0] == "math" and [row[1:] for row in tables["by_task"].rows] == tables[""].rows


def test_repeated_bigrams_in_one_trajectory_widen_only_the_clustered_interval(tmp_path):
    long = ["think", "python"] * 3 + ["answer"]
    rows = build(
        "table3",
        _behaviour_inputs(tmp_path, [(long, True)] * 6 + [(long, False)] * 6),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}], "statistics": QUICK},
    )[""].rows
    lo, hi, lo_clustered, hi_clustered = map(float, next(row for row in rows if row[0] == "think→python")[4:8])
    assert hi_clustered - lo_clustered > 1.3 * (hi - lo)


def test_three_samples_of_an_item_are_one_cluster(tmp_path):
    """Repeating every trajectory as further samples of its item moves the independent interval alone."""
    closing = ["think", "python", "answer"]
    sets = {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}], "statistics": QUICK}
    inputs = _behaviour_inputs(tmp_path, [(closing, number % 3 > 0) for number in range(30)])
    once = build("table3", inputs, sets)[""]
    for kind in ("traces", "scores"):
        file = tmp_path / kind / "m" / "gsm8k.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        made_up.write_lines(file, [record | {"sample": sample} for record in records for sample in range(3)])
    thrice = build("table3", Inputs(scores=[tmp_path / "scores"], traces=[tmp_path / "traces"]), sets)[""]
    first, second = (dict(zip(table.columns, table.rows[0], strict=True)) for table in (once, thrice))
    assert (first["lo_clustered"], first["hi_clustered"]) == (second["lo_clustered"], second["hi_clustered"])
    assert second["trajectories"] == 3 * first["trajectories"] == 90 and second["lo"] > first["lo"]


def test_table4_medians(tmp_path):
    trajectories = [(["think", "python", "answer"], number % 2 == 0) for number in range(9)] + [
        (["think", "answer"], True)
    ]
    rows = build(
        "table4",
        _behaviour_inputs(tmp_path, trajectories),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]},
    )[""].rows
    assert rows[0] == ["math only", 10, "400", "400", 5, 4] and rows[1][0] == "full sample"
    first = build(
        "table4",
        _behaviour_inputs(tmp_path, trajectories),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math", "n": 3}]},
    )[""].rows[0]
    assert first[:4] == ["math only", 3, "100", "100"]


def test_trajectories_without_a_score_are_refused(tmp_path):
    inputs = _behaviour_inputs(tmp_path, [(["answer"], True)] * 2)
    made_up.write_lines(tmp_path / "scores" / "m" / "gsm8k.jsonl", [{"id": "0", "sample": 0, "correct": True}])
    with pytest.raises(DataError, match="has no score"):
        build("table4", inputs, {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]})


def test_table7_lists_the_package_without_importing_it(tmp_path):
    package = tmp_path / "aspo"
    package.mkdir()
    (package / "__init__.py").write_text('"""The package."""\n__all__ = ["b", "a"]\n')
    (package / "core.py").write_text(
        '"""The core.\n\nMore."""\nimport torch_that_is_absent\n\ndef run(): ...\n\ndef _hidden(): ...\n'
    )
    rows = build("table7", Inputs(data=[package]), {})[""].rows
    assert rows == [["aspo/core.py", 8, "run", "The core."], ["aspo/__init__.py", 2, "b a", "The package."]]
    assert describe_module(ROOT / "tir" / "errors.py")[0] > 50


def test_table8_adds_up_snakemakes_benchmark_files(tmp_path):
    (tmp_path / "sft.tsv").write_text("s\th:m:s\n60.0\t0:01:00\n70.0\t0:01:10\n")
    (tmp_path / "rl.tsv").write_text("s\th:m:s\n3600\t1:00:00\n")
    rows = build(
        "table8",
        Inputs(timings=[tmp_path]),
        {"rows": [{"label": "SFT", "timing": "sft", "hardware": "CPU"}, {"label": "RL", "timing": "rl"}]},
    )[""].rows
    assert rows == [
        ["SFT", "", "", "CPU", "1 min 5 s"],
        ["RL", "", "", "", "1 h 0 min"],
        ["total", "", "", "", "1 h 1 min"],
    ]
    assert [clock(3.21), clock(59.6), clock(218), clock(5712)] == ["3.2 s", "1 min 0 s", "3 min 38 s", "1 h 35 min"]


def test_table13_reads_the_training_log(inputs):
    params = {"run": "full", "configuration": {"samples": 53971, "epochs": 3}, "effective_batch": 128}
    rows = dict(build("table13", inputs, params)[""].rows)
    assert rows["samples"] == 53971 and rows["steps"] == 1239 and rows["wall-clock of training"] == "1 h 35 min"
    assert rows["samples per second"] == "27.8" and rows["steps per second"] == "0.22"
    assert 0.64 < float(rows["train loss, mean over steps"]) < 0.70 and rows["evaluation loss, last"] == "0.6497"
    assert rows["evaluation loss by step"] == "414: 0.6576, 828: 0.6471, 1239: 0.6497"
    with pytest.raises(DataError, match="no logs of medium"):
        build("table10", inputs, {"run": "medium"})


def test_table12_has_one_row_per_model(inputs):
    tables = build(
        "table12",
        inputs,
        {
            "rows": [{**row, "data": "54K × 3"} for row in made_up.ROWS[:2]],
            "benchmarks": made_up.BENCHMARKS[:1],
            "statistics": QUICK,
        },
    )
    assert tables[""].columns == ["model", "training data", "n", "P", "lo", "hi"] and tables[""].rows[0][1:3] == [
        "54K × 3",
        30,
    ]
    assert float(tables[""].rows[1][3]) * 30 == pytest.approx(round(float(tables[""].rows[1][3]) * 30), abs=0.02)


def test_every_table_of_the_paper_has_a_builder():
    assert [f"table{number}" for number in range(1, 14)] == [name for name in BUILDERS if name.startswith("table")]
    for name in BUILDERS:
        assert module(name).startswith("tir.tables.")


# --- inputs and the script ---------------------------------------------------------------------------------------


def test_inputs_are_found_by_place_and_ambiguity_is_refused(root, tmp_path):
    file = root / "scores" / "sft" / "gsm8k.jsonl"
    assert Inputs(scores=[file]).scores("sft", "gsm8k") == _records(root, "sft", "gsm8k")
    assert sorted(Inputs(metrics=[root / "runs" / "rl"]).metrics("grpo")) == [1, 2, 3]
    copy = made_up.write_lines(tmp_path / "sft" / "gsm8k.jsonl", [{}])
    with pytest.raises(DataError, match="two files for the same place"):
        Inputs(scores=[file, copy])
    with pytest.raises(DataError, match="file is empty"):
        Inputs(scores=[made_up.write_lines(tmp_path / "m" / "b.jsonl", [])]).scores("m", "b")


def test_seeds_and_samples_become_axes(tmp_path):
    def rows(shift):
        return [
            {"id": item, "sample": sample, "em": shift + 10 * item + sample} for item in (2, 1) for sample in (1, 0)
        ]

    for seed in (1, 2):
        made_up.write_lines(tmp_path / f"a-step1-seed{seed}" / "x.jsonl", rows(100 * seed))
    inputs = Inputs(scores=[tmp_path])
    found = inputs.score_array(["a-step1-seed1", "a-step1-seed2"], "x", "em")
    assert found.tolist() == [[[110, 111], [120, 121]], [[210, 211], [220, 221]]]
    made_up.write_lines(tmp_path / "a-step1-seed3" / "x.jsonl", rows(0)[:3])
    with pytest.raises(DataError, match="different samples"):
        Inputs(scores=[tmp_path]).score_array(["a-step1-seed1", "a-step1-seed3"], "x", "em")


def _run(*arguments, params):
    return subprocess.run(
        [sys.executable, "-m", "scripts.make_table", *map(str, arguments), "--params", json.dumps(params)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_script_as_a_rule_calls_it(root, tmp_path):
    done = _run(
        "--table",
        "table5",
        "--scores-dir",
        root / "scores",
        "--output",
        tmp_path / "results" / "table5.csv",
        params=TABLE5,
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "results").iterdir() if not path.name.endswith("provenance.json"))
    assert names == [
        "table5.csv",
        "table5.html",
        "table5.md",
        "table5.tex",
        "table5_comparisons.csv",
        "table5_detail.csv",
        "table5_paper.csv",
        "table5_variance.csv",
    ]
    failed = _run("--table", "table5", "--output", tmp_path / "table5.csv", params=TABLE5)
    assert failed.returncode == 1 and re.search(r"DataError: scores: no scores of published/gsm8k", failed.stderr)
    assert not (tmp_path / "table5.csv").exists() and "Traceback" not in failed.stderr
