"""Tables: the paper's columns and arithmetic, and every aggregate recomputed from generated records."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from xml.etree import ElementTree

import numpy as np
import pytest
from support import made_up
from support.paths import ROOT

from tir.analysis.figures import FIGURES
from tir.analysis.numbers import fixed, points, significant
from tir.analysis.tables import TABLES, build, kind
from tir.analysis.tables.files import page, to_csv, to_latex, to_markdown, write_tables
from tir.analysis.tables.inputs import Inputs, is_arm
from tir.analysis.tables.layout import Table
from tir.analysis.tables.reference import paper, paper_comparison, published_cell
from tir.analysis.tables.training import clock, describe_module
from tir.common.errors import ConfigError, DataError
from tir.workflow.targets import PAPER_TABLES

TABLE5 = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS}
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
    text = to_csv(build("table5", inputs, TABLE5)[""])
    assert text.splitlines()[0] == "model,GSM8K,MATH500,AIME24,AIME25,HotpotQA,2Wiki,Bamb,MuSiQue,Avg"
    rows = {row["model"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == ["published", "SFT", "GRPO @ 30", "ASPO @ 30"]
    for row in made_up.ROWS:
        means = []
        for each in made_up.BENCHMARKS:
            values = [
                record[each["metric"]] for model in row["models"] for record in _records(root, model, each["name"])
            ]
            means.append(np.mean(values))
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


def test_detail_has_intervals_and_comparisons_has_paired_differences(inputs):
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
    pair = next(row for row in pairs if (row["a"], row["b"], row["benchmark"]) == ("ASPO @ 30", "GRPO @ 30", "Avg"))
    scores = {row["model"]: float(row["score"]) for row in detail if row["benchmark"] == "Avg"}
    assert float(pair["difference"]) == pytest.approx(scores["ASPO @ 30"] - scores["GRPO @ 30"], abs=2e-4)
    assert float(pair["p"]) <= float(pair["holm_p"]) and float(pair["mde"]) > 0 and pair["verdict"]


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
    text = to_latex(table)
    assert text.count("{") == text.count("}") and text.count(r"\textbf") == len(table.bold) and text.count("&") == 9 * 5
    assert to_markdown(table).count("**") == 2 * (len(table.bold) + 1)


def test_the_html_page_has_the_companions_and_escapes_text(inputs):
    tables = build("table5", inputs, TABLE5)
    tables[""].notes.append("a <b> & 'c'")
    text = page(tables)
    root = ElementTree.fromstring(re.sub("<!DOCTYPE html>|<meta [^>]*>", "", text))
    shown = [["".join(cell.itertext()) for cell in row] for row in root.findall("body/table//tr")]
    assert shown == [tables[""].columns, *tables[""].rows]
    assert len(root.findall("body/table//b")) == len(tables[""].bold)
    assert [len(each.findall(".//tr")) - 1 for each in root.findall("body/details")] == [
        len(tables[suffix].rows) for suffix in ("detail", "comparisons", "variance", "paper")
    ]
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;" in text


def test_the_papers_cells_are_listed_beside_this_runs(inputs):
    tables = build("table5", inputs, TABLE5)
    this_run = {row[0]: dict(zip(tables[""].columns, row, strict=True)) for row in tables[""].rows}
    cells = {(row, column): (printed, measured) for row, column, printed, measured in tables["paper"].rows}
    assert len(cells) == 4 * 9
    assert cells["ASPO @ 30", "MuSiQue"] == (20.5, this_run["ASPO @ 30"]["MuSiQue"])
    table13 = build("table13", inputs, {"run": "full"})
    assert {row[0]: row[2:] for row in table13["paper"].rows}["steps"] == [1239, 1239]
    assert paper_comparison("terms", tables[""]) is None
    for name in PAPER_TABLES:  # `beside` zips strictly: every cell of the 13 tables has a column
        assert paper_comparison(name, tables[""]).rows, name


def test_table3_notes_that_the_contrast_is_not_measured(inputs):
    search = [each for each in made_up.BENCHMARKS if each["task"] == "qa"]
    sets = [{"model": "published", "benchmark": each["name"], "task": "qa"} for each in search]
    tables = build("table3", inputs, {"sets": sets})
    assert not tables["tests"].rows and tables[""].notes[-1].endswith("one of them does not occur.")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_without_overfull_lines(inputs, tmp_path):
    wide = Table(
        "Wide − 13 columns",
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
            + to_latex(table)
            + r"\end{document}"
        )
        (tmp_path / f"t_{name}.tex").write_text(document, encoding="utf-8")
        call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"t_{name}.tex"]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout and "too large" not in done.stdout, name


def test_latex_wraps_long_texts_splits_long_tables_and_prints_minus_signs():
    text = "several words that do not fit into a column of a page"
    table = Table("A", ["what", "n"], [[text, -1.5], ["b-2", 3]])
    assert r"p{0.64\linewidth}r" in to_latex(table) and "$-$1.5" in to_latex(table) and "b-2" in to_latex(table)
    assert "longtable" not in to_latex(table) and "longtable" in to_latex(
        Table("A", ["n"], [[row] for row in range(41)])
    )


def test_latex_escapes_special_characters_and_csv_does_not():
    table = Table("50 % of a_b & c", ["x<y", "n"], [["α→β #1 {z}", 3]])
    text = to_latex(table)
    assert r"50 \% of a\_b \& c" in text and r"x\textless{}y" in text and r"\{z\}" in text
    assert to_csv(table) == "x<y,n\nα→β #1 {z},3\n"


def test_csv_has_the_same_bytes_as_pythons_csv_writer():
    rows = [[1, 2.50, "2.50", None, True, 'say "a, b"'], [10**20, 1e-7, " x ", "", float("inf"), "two\nlines"]]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([["a", "a", "b|c", "d", "", "e"], *rows])
    assert to_csv(Table("", ["a", "a", "b|c", "d", "", "e"], rows)) == written.getvalue()


def test_averages_have_a_line_above_and_column_titles_may_repeat():
    table = Table("A", ["n", "n", "a|b"], [["x", 1, "p"], ["Avg", 2, "q|r"]], rule_before={1})
    assert "\\midrule\nAvg & 2" in to_latex(table) and "td.row1 {\n  border-top" in page({"": table})
    assert to_markdown(table).splitlines()[2:] == [
        r"| n | n | a\|b |", "| --- | ---: | --- |", "| x | 1 | p |", r"| Avg | 2 | q\|r |"
    ]  # fmt: skip


def test_models_with_different_items_or_no_scores_are_rejected(root, tmp_path):
    made_up.write_scores(tmp_path, ["published"], n=30)
    made_up.write_scores(tmp_path, ["sft"], n=29)
    with pytest.raises(DataError, match="different items"):
        build("table5", Inputs(scores=[tmp_path / "scores"]), {**TABLE5, "rows": made_up.ROWS[:2]})
    with pytest.raises(DataError, match="no scores of grpo-step30-seed1/gsm8k"):
        build("table5", Inputs(scores=[tmp_path / "scores"]), {**TABLE5, "rows": made_up.ROWS[2:]})


def test_errors_name_a_missing_parameter_a_missing_metric_and_a_repeated_label(inputs):
    with pytest.raises(ConfigError, match="it has no benchmarks"):
        build("table5", inputs, {"rows": made_up.ROWS})
    by_judge = [{**each, "metric": "judge"} for each in made_up.BENCHMARKS[:1]]
    with pytest.raises(DataError, match="score record has no judge"):
        build("table5", inputs, {**TABLE5, "benchmarks": by_judge})
    with pytest.raises(DataError, match="same label"):
        build("table5", inputs, {**TABLE5, "rows": [made_up.ROWS[0], made_up.ROWS[0]]})


def test_verdicts_of_the_judge_are_added_to_the_scores_where_they_are_given(tmp_path):
    made_up.write_scores(tmp_path, ["published"], n=4)
    verdicts = [{"id": str(n), "sample": 0, "verdict": n % 2 == 0} for n in range(4)]
    judge = made_up.write_lines(tmp_path / "judge/published/gsm8k.jsonl", verdicts)
    place, scores = ("published", "gsm8k"), [tmp_path / "scores"]
    by_rules = Inputs(scores=scores)
    by_judge = Inputs(scores=scores, judge=[judge])
    stored = Inputs(scores=scores, judge=[judge], judge_decides=False)
    assert list(by_judge.correct(*place).values()) == [True, False, True, False] and by_judge.judged(*place) == 4
    assert stored.correct(*place) == by_rules.correct(*place) and stored.judged(*place) == by_rules.judged(*place) == 0
    assert stored.score_array(["published"], "gsm8k", "judge").ravel().tolist() == [1, 0, 1, 0]
    assert by_judge.judged("published", "math500") == 0


def test_a_table_of_another_name_has_the_layout_of_table_5(inputs):
    assert kind("ablations").module == kind("table6").module == "tir.analysis.tables.accuracy"
    assert kind("table13").module == "tir.analysis.tables.training"
    assert build("ablations", inputs, TABLE5)[""].rows == build("table6", inputs, TABLE5)[""].rows


# --- the paper's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["table5", "table6"])
def test_the_papers_averages_follow_from_its_cells(table):
    for name, cells in paper()[table].items():
        if name != "columns":
            assert np.mean(cells[:-1]) == pytest.approx(cells[-1], abs=0.051)


def test_the_papers_headline_numbers_follow_from_its_tables():
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
    correct = table5["GRPO @ 30"][1] * 30 / 100
    assert abs(correct - round(correct)) > 0.1  # MATH500 of the RL rows cannot be exact match at n = 30


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

    trace = {  # two search tags by the model, one executed call
        **traces[0],
        "segments": [
            {"by": "model", "text": "<search>a</search>"},
            {"by": "tool", "text": "<search>no</search>"},
            {"by": "model", "text": "<search>b</search>"},
        ],
        "n_search": 1,
    }
    made_up.write_lines(tmp_path / "traces" / "m" / "hotpotqa.jsonl", [trace, {**trace, "id": "1"}])
    made_up.write_lines(tmp_path / "scores" / "m" / "hotpotqa.jsonl", _records(root, "sft", "hotpotqa")[:2])
    tables = build(
        "table1",
        Inputs(scores=[tmp_path / "scores"], traces=[tmp_path / "traces"]),
        {"rows": [{"label": "m", "models": ["m"]}], "benchmarks": made_up.BENCHMARKS[4:5]},
    )
    assert tables[""].rows[0][3] == "2.00"  # the tag in the tool result does not count
    assert tables["calls"].rows[1] == ["m", "hotpotqa", "search", "2.0000", "1.0000"]


def test_table2_ignores_tags_in_tool_results(inputs):
    rows = {row[0]: row[1:] for row in build("table2", inputs, {})[""].rows}
    assert rows == {
        "python_only": [67, "67.00"],
        "search_only": [24, "24.00"],
        "no_tools": [9, "9.00"],
        "mixed": [0, "0.00"],
        "total": [100, "100.00"],
    }


def _behaviour_inputs(folder, trajectories):
    """Records of math trajectories, given as [(action tags, correct)]."""
    texts = {
        "answer": "<answer>\\boxed{1}</answer>",
        "think": "<think>t</think>",
        "python": "<python>1</python>",
        "search": "<search>q</search>",
    }
    traces, scores = [], []
    for number, (tags, correct) in enumerate(trajectories):
        segments = []
        for tag in tags:
            segments.append({"by": "model", "text": texts[tag]})
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
                "finish": "length" if tags[-2:] == ["think", "answer"] else "answer",
                "usage": {"response_tokens": 100 * (number + 1)},
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
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]},
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
    assert 0.3 < float(tables["tests"].rows[0][3]) < 0.64 < float(tables["tests"].rows[0][4]) < 0.9
    assert tables["by_task"].rows[0][0] == "math" and [row[1:] for row in tables["by_task"].rows] == tables[""].rows


def test_repeated_bigrams_in_one_trajectory_widen_only_the_clustered_interval(tmp_path):
    tags = ["think", "python"] * 3 + ["answer"]
    rows = build(
        "table3",
        _behaviour_inputs(tmp_path, [(tags, True)] * 6 + [(tags, False)] * 6),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]},
    )[""].rows
    lo, hi, lo_clustered, hi_clustered = map(float, next(row for row in rows if row[0] == "think→python")[4:8])
    assert hi_clustered - lo_clustered > 1.3 * (hi - lo)


def test_three_samples_of_an_item_are_one_cluster(tmp_path):
    """Two more equal samples of every item narrow Wilson's interval and leave the clustered interval as it was."""
    closing = ["think", "python", "answer"]
    sets = {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]}
    inputs = _behaviour_inputs(tmp_path, [(closing, number % 3 > 0) for number in range(30)])
    once = build("table3", inputs, sets)[""]
    for record in ("traces", "scores"):
        file = tmp_path / record / "m" / "gsm8k.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        made_up.write_lines(file, [record | {"sample": sample} for record in records for sample in range(3)])
    thrice = build("table3", Inputs(scores=[tmp_path / "scores"], traces=[tmp_path / "traces"]), sets)[""]
    first, second = (dict(zip(table.columns, table.rows[0], strict=True)) for table in (once, thrice))
    assert (first["lo_clustered"], first["hi_clustered"]) == (second["lo_clustered"], second["hi_clustered"])
    assert second["trajectories"] == 3 * first["trajectories"] == 90 and second["lo"] > first["lo"]


def test_table4_has_median_offsets_of_the_first_n_items(tmp_path):
    trajectories = [(["think", "python", "answer"], number % 2 == 0) for number in range(9)] + [
        (["think", "answer"], True)
    ]
    rows = build(
        "table4",
        _behaviour_inputs(tmp_path, trajectories),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]},
    )[""].rows
    assert rows[0] == ["math only", 10, "400", "400", 5, 4] and [row[0] for row in rows[1:]] == [
        "questions only",
        "full sample",
    ]
    first = build(
        "table4",
        _behaviour_inputs(tmp_path, trajectories),
        {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math", "n": 3}]},
    )[""].rows[0]
    assert first[:4] == ["math only", 3, "100", "100"]


def test_a_trajectory_without_a_score_is_an_error(tmp_path):
    inputs = _behaviour_inputs(tmp_path, [(["answer"], True)] * 2)
    made_up.write_lines(tmp_path / "scores" / "m" / "gsm8k.jsonl", [{"id": "0", "sample": 0, "correct": True}])
    with pytest.raises(DataError, match="has no score"):
        build("table4", inputs, {"sets": [{"model": "m", "benchmark": "gsm8k", "task": "math"}]})


def test_table7_describes_modules_without_importing_them(tmp_path):
    package = tmp_path / "aspo"
    package.mkdir()
    (package / "__init__.py").write_text('"""The package."""\n__all__ = ["b", "a"]\n')
    (package / "core.py").write_text(
        '"""The core.\n\nMore."""\nimport torch_that_is_absent\n\ndef run(): ...\n\ndef _hidden(): ...\n'
    )
    rows = build("table7", Inputs(data=[package]), {})[""].rows
    assert rows == [["aspo/core.py", 8, "run", "The core."], ["aspo/__init__.py", 2, "b a", "The package."]]
    assert describe_module(ROOT / "tir/common/errors.py")[0] > 50


def test_table8_sums_the_times_of_snakemakes_benchmark_files(tmp_path):
    (tmp_path / "sft.tsv").write_text("s\th:m:s\n60.0\t0:01:00\n70.0\t0:01:10\n")
    for name in ("rl1", "rl2"):
        (tmp_path / f"{name}.tsv").write_text("s\tresources\n3600\t{'mem_mb': 9, 'gres': 'gpu:h100:8'}\n")
    rows = build(
        "table8",
        Inputs(timings=[tmp_path]),
        {
            "rows": [
                {"label": "SFT", "timings": ["sft"], "hardware": "CPU"},
                {"label": "RL", "timings": ["rl1", "rl2"], "hardware": "GPU"},
            ]
        },
    )[""].rows
    assert rows == [
        ["SFT", 1, "", "", "CPU", "1 min 5 s"],
        ["RL", 2, "", "", "8 GPU", "2 h 0 min"],
        ["total", 3, "", "", "", "2 h 1 min"],
    ]
    assert [clock(3.21), clock(59.6), clock(218), clock(5712)] == ["3.2 s", "1 min 0 s", "3 min 38 s", "1 h 35 min"]


def test_table13_reads_the_training_log(inputs):
    params = {"run": "full", "configuration": {"samples": 53971, "epochs": 3}, "effective_batch": 128}
    rows = dict(build("table13", inputs, params)[""].rows)
    assert rows["samples"] == 53971 and rows["steps"] == 1239 and rows["wall-clock of training"] == "1 h 35 min"
    assert rows["samples per second"] == "27.8" and rows["steps per second"] == "0.22"
    assert 0.64 < float(rows["train loss, mean over steps"]) < 0.70 and rows["evaluation loss, last"] == "0.6497"
    assert rows["evaluation loss by step"] == "414: 0.6576, 828: 0.6471, 1239: 0.6497"
    assert rows["rows held out"] == "not logged"
    with pytest.raises(DataError, match="no logs of medium"):
        build("table10", inputs, {"run": "medium"})


def test_a_training_run_of_less_than_a_second_has_the_same_rows_as_a_longer_one(tmp_path):
    def rows(elapsed):
        path = tmp_path / str(elapsed) / "smoke" / "log.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"step": 5, "epoch": 1, "loss": 6.0, "lr": 0.001, "elapsed": elapsed}) + "\n")
        inputs = Inputs(logs=[path.parents[1]])
        return dict(build("table9", inputs, {"run": "smoke", "effective_batch": 8})[""].rows)

    short, long = rows(0.0), rows(2.0)
    assert list(short) == list(long) and long["samples per second"] == "20.0"
    assert short["wall-clock of training"] == "under 1 s" and short["steps per second"] == "not measured"


def test_tables_of_sft_runs_say_what_was_held_out(tmp_path):
    def note(*rows):
        made_up.write_lines(tmp_path / "runs/sft/full/log.jsonl", [{"step": 1, "loss": 1.0}, *rows])
        table = build("table13", Inputs(logs=[tmp_path / "runs/sft"]), {"run": "full"})[""]
        return dict(table.rows), table.notes[0]

    counts = {"train_rows": 882, "held_out_rows": 18}
    rows, text = note({"step": 2, "eval_loss": 0.9} | counts)
    assert rows["rows trained on"] == 882 and rows["rows held out"] == 18
    assert text.startswith("Held out: 18 rows of the same fine-tuning data")
    assert note(counts | {"step": 2, "held_out_rows": 0})[1].startswith("No rows were held out")


def test_behaviour_counts_bigrams_calls_offsets_length_and_truncation(tmp_path):
    closing, rethinking = ["think", "python", "answer"], ["think", "python", "think", "python", "answer"]
    inputs = _behaviour_inputs(tmp_path, [(closing, True), (rethinking, False), (["think", "answer"], False)])
    row = {"label": "M", "models": ["m"]}
    params = {"rows": [row], "benchmarks": [{"name": "gsm8k", "task": "math"}]}
    tables = build("behaviour", inputs, params | {"decoding": {"temperature": 0, "samples": 1}})
    found = dict(zip(tables[""].columns, tables[""].rows[0], strict=True))
    assert (found["think→python"], found["python→think"], found["python→answer"]) == ("1.00", "0.33", "0.67")
    assert (found["calls"], found["tokens"], found["truncated"], found["with_tool"]) == ("1.00", "200.0", "33.3", 2)
    chars = [len("<think>t</think><python>1</python>") * times + len("<answer>\\boxed{1}</answer>") for times in (1, 2)]
    assert found["first_tool"] == "50.0" and found["first_tool_share"] == fixed(100 / chars[1] / 2, 3)
    assert tables["seeds"].rows == [["m", *tables[""].rows[0][1:]]]
    assert "temperature 0, 1 per item" in tables[""].notes[-1]


def test_shaping_shows_phis_share_and_names_the_arms_without_phi(inputs):
    tables = build("shaping", inputs, {"arms": ["grpo", "aspo"]})
    found = dict(zip(tables[""].columns, tables[""].rows[0], strict=True))
    assert len(tables[""].rows) == 1 and tables[""].notes[-1] == "Without phi: grpo."
    assert (found["arm"], found["seeds"], found["steps"]) == ("aspo", 3, 90)
    assert (found["shift_share"], found["phi_only_share"], found["variance_ratio_math"]) == ("0.400", "0.200", "0.900")
    assert found["variance_ratio_qa"] == "" and found["sign_flips"] == "1.000"
    assert tables["fire"].rows[0] == ["aspo", "closure", "0.800", "", "", "0.000"]


def test_records_of_the_trace_analysis_are_apart_from_those_of_the_evaluation(tmp_path):
    for folder, right in (("", True), ("sampled/", False)):
        record = [{"id": "1", "sample": 0, "correct": right}]
        made_up.write_lines(tmp_path / f"{folder}scores/sft/gsm8k.jsonl", record)
    inputs = Inputs(scores=[tmp_path / "scores", tmp_path / "sampled/scores"])
    assert inputs.correct("sft", "gsm8k") == {("1", 0): True}
    assert inputs.correct("sampled/sft", "gsm8k") == {("1", 0): False}


def test_table12_has_one_row_per_model(inputs):
    tables = build(
        "table12",
        inputs,
        {
            "rows": [{**row, "data": "54K × 3"} for row in made_up.ROWS[:2]],
            "benchmarks": made_up.BENCHMARKS[:1],
        },
    )
    assert tables[""].columns == ["model", "training data", "n", "P", "lo", "hi"] and tables[""].rows[0][1:3] == [
        "54K × 3",
        30,
    ]
    assert float(tables[""].rows[1][3]) * 30 == pytest.approx(round(float(tables[""].rows[1][3]) * 30), abs=0.02)


def test_every_table_and_figure_of_the_paper_names_a_function():
    assert {f"table{number}" for number in range(1, 14)} == {name for name in TABLES if name.startswith("table")}
    for each in [*TABLES.values(), *FIGURES.values()]:
        assert callable(resolve_name(each.builder)) and each.builder.startswith(f"{each.module}:")


def test_the_workflow_reads_all_entries_without_loading_a_library():
    code = "import sys, tir.workflow.targets; print({'numpy', 'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# --- inputs and the script ---------------------------------------------------------------------------------------


def test_inputs_are_found_by_path_and_duplicate_or_empty_files_are_rejected(root, tmp_path):
    file = root / "scores" / "sft" / "gsm8k.jsonl"
    assert Inputs(scores=[file]).scores("sft", "gsm8k") == _records(root, "sft", "gsm8k")
    assert sorted(Inputs(metrics=[root / "runs" / "rl"]).metrics("grpo")) == [1, 2, 3]
    copy = made_up.write_lines(tmp_path / "sft" / "gsm8k.jsonl", [{}])
    with pytest.raises(DataError, match="two files hold the same records"):
        Inputs(scores=[file, copy])
    with pytest.raises(DataError, match="file is empty"):
        Inputs(scores=[made_up.write_lines(tmp_path / "m" / "b.jsonl", [])]).scores("m", "b")


def test_score_array_has_axes_seeds_items_samples(tmp_path):
    def rows(shift):
        return [
            {"id": item, "sample": sample, "em": shift + 10 * item + sample} for item in (2, 1) for sample in (1, 0)
        ]

    for seed in (1, 2):
        made_up.write_lines(tmp_path / f"a-step1-seed{seed}" / "x.jsonl", rows(100 * seed))
    inputs = Inputs(scores=[tmp_path])
    scores = inputs.score_array(["a-step1-seed1", "a-step1-seed2"], "x", "em")
    assert scores.tolist() == [[[110, 111], [120, 121]], [[210, 211], [220, 221]]]
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


def test_the_script_writes_all_files_or_prints_one_error(root, tmp_path):
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


# --- rounding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "digits", "printed"),
    [
        (38.75, 1, "38.8"),
        (100 * 0.3875, 1, "38.8"),  # a float just below 38.75
        (48.75, 1, "48.8"),
        (31.5, 0, "32"),
        (30.5, 0, "31"),
        (-0.25, 1, "-0.3"),
        (-0.04, 1, "0.0"),
        (0.6665, 3, "0.667"),
        (2.675, 2, "2.68"),
        (np.float64(12.345), 2, "12.35"),
        (1e-9, 3, "0.000"),
        (float("nan"), 1, "nan"),
    ],
)
def test_halves_are_rounded_away_from_zero_as_decimal_numbers(value, digits, printed):
    assert fixed(value, digits) == printed
    assert fixed(value, digits, sign=True).lstrip("+") == printed


def test_points_and_significant_digits_follow_the_same_rule():
    assert [points(31 / 80), points(39 / 80), points(None), points(-0.0125, sign=True)] == ["38.8", "48.8", "", "-1.3"]
    assert points(0.0125, sign=True) == "+1.3" and points(0.0, sign=True) == "0.0"
    assert [significant(each, 4) for each in (0.625, 1.00005, 1.1e-6, 12345.5)] == [
        "0.625",
        "1",
        "1.1e-06",
        "1.235e+04",
    ]
    assert significant(2.5, 1) == "3"  # not the even digit


def test_every_writer_prints_numbers_by_that_rule():
    """No format specification and no `round` in the code that writes results, except in `numbers`."""
    own = re.compile(r":[+,]?\.\d[fge%]|:\.\{\w+[^}]*\}[fge]|\bround\(")
    allowed = {("arithmetic.py", "round(score * n / 100)"), ("files.py", r":.2f}\linewidth")}
    for path in [*(ROOT / "tir/analysis").rglob("*.py"), ROOT / "scripts/show_results.py"]:
        if path.name != "numbers.py":
            for line in path.read_text(encoding="utf-8").splitlines():
                found = own.search(line) and not any(path.name == name and part in line for name, part in allowed)
                assert not found, f"{path.name}: {line.strip()}"


def test_checkpoints_after_dpo_are_those_of_an_arm():
    assert is_arm(["aspo-step30-seed1", "grpo-step15-dpo1-seed2"])
    assert is_arm(["sft-original"]) and is_arm(["sft-synthesised"]) and not is_arm(["sft-medium"])
    assert not is_arm(["aspo-step30-seed1", "sft-epoch2"]) and not is_arm(["sft"])
