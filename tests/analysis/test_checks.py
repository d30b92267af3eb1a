"""The checks `leakage` and `arithmetic`: they find the known errors of upstream's files and of the paper's tables."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
from support.shared_data import BENCHMARK_TASKS, SHARED, needs_shared

from tir.analysis.tables import build
from tir.analysis.tables.arithmetic import mean_of_cells, whole_number
from tir.analysis.tables.inputs import Inputs
from tir.common.errors import DataError
from tir.data.benchmarks import load_items
from tir.data.validation import load_parquet, select_validation


def records(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def benchmark_params(names=BENCHMARK_TASKS, kept=True):
    return [{"name": name, "label": name, "task": BENCHMARK_TASKS[name], "n": 30, "kept": kept} for name in names]


@needs_shared
def test_every_overlap_in_upstreams_files_is_found():
    data = [SHARED / "rl" / "train.parquet", SHARED / "rl" / "test.parquet"]
    data += [SHARED / "benchmarks" / f"{name}.jsonl" for name in BENCHMARK_TASKS]
    tables = build("leakage", Inputs(data=data), {"benchmarks": benchmark_params()})
    pairs = {(row["file"], row["against"]): row for row in records(tables[""])}
    shared = {pair: row["overlap"] for pair, row in pairs.items() if row["overlap"]}
    assert shared == {
        ("train", "hotpotqa"): 5,
        ("test", "aime24"): 30,
        ("test", "math500"): 30,
        ("test", "bamboogle"): 20,
        ("test", "musique"): 1,
    }
    first = [pairs["test", name]["overlap_in_first_n"] for name in ("aime24", "math500", "bamboogle", "musique")]
    assert first == [30, 2, 5, 0]
    files = {row["file"]: row for row in records(tables["files"])}
    assert files["test"]["composition_of_first_50"] == "qa 50" and files["test"]["head_is_one_sided"] == "yes: only qa"
    assert files["train"]["composition"] == "math 5000, qa 5000" and files["train"]["head_is_one_sided"] == "no"
    assert files["train"]["duplicates"] >= 37


@needs_shared
def test_stratified_validation_rows_do_not_overlap_benchmarks_but_the_first_rows_do(tmp_path):
    rows = load_parquet(SHARED / "rl" / "test.parquet")
    questions = [
        item.question for name in BENCHMARK_TASKS for item in load_items(SHARED / "benchmarks" / f"{name}.jsonl")
    ]
    benchmarks = [SHARED / "benchmarks" / f"{name}.jsonl" for name in BENCHMARK_TASKS]
    for select, clean in (("stratified", True), ("head", False)):
        chosen, _ = select_validation(rows, questions, count=50, select=select, decontaminate=clean, seed=0)
        path = tmp_path / select / "validation.parquet"
        path.parent.mkdir()
        chosen.to_parquet(path)
        params = {"benchmarks": benchmark_params(), "decontaminated": "validation"}
        if clean:
            tables = build("leakage", Inputs(data=[path, *benchmarks]), params)
            assert not any(row["overlap"] for row in records(tables[""]))
            assert records(tables["files"])[0]["head_is_one_sided"] == "no"
        else:
            with pytest.raises(DataError, match="overlaps a benchmark.*bamboogle"):
                build("leakage", Inputs(data=[path, *benchmarks]), params)


def test_overlap_ignores_case_spaces_and_punctuation_and_reads_sft_rows(tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "What is  2+2?", "answer": "4"}) + "\n")
    (tmp_path / "sft.json").write_text(json.dumps([{"instruction": "i", "input": "WHAT is 2 + 2", "output": ""}] * 2))
    frame = pd.DataFrame(
        {"question": ["other"], "ability": ["math"], "data_source": ["x"], "reward_model": [{"ground_truth": "4"}]}
    )
    frame.to_parquet(tmp_path / "validation.parquet")
    files = [tmp_path / name for name in ("sft.json", "validation.parquet", "gsm8k.jsonl")]
    tables = build("leakage", Inputs(data=files), {"benchmarks": benchmark_params(["gsm8k"])})
    rows = records(tables[""])
    assert [(row["file"], row["overlap"]) for row in rows] == [("sft", 1), ("validation", 0), ("sft", 0)]
    assert records(tables["files"])[0]["duplicates"] == 1


def test_only_benchmarks_kept_from_validation_must_not_overlap_it(tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "What is 2+2?", "answer": "4"}) + "\n")
    frame = pd.DataFrame(
        {
            "question": ["What is 2+2?"],
            "ability": ["math"],
            "data_source": ["x"],
            "reward_model": [{"ground_truth": "4"}],
        }
    )
    frame.to_parquet(tmp_path / "validation.parquet")
    files = Inputs(data=[tmp_path / "validation.parquet", tmp_path / "gsm8k.jsonl"])
    params = {"benchmarks": benchmark_params(["gsm8k"], kept=False), "decontaminated": "validation"}
    tables = build("leakage", files, params)
    assert [row["overlap"] for row in records(tables[""])] == [1]
    with pytest.raises(DataError, match="overlaps a benchmark"):
        build("leakage", files, params | {"benchmarks": benchmark_params(["gsm8k"])})


def test_cells_of_the_paper_that_cannot_be_exact_match_are_listed():
    rows = records(build("arithmetic", Inputs(data=[]), {})[""])
    impossible = {
        (row["table"], row["row"], row["check"].partition(":")[0], row["printed"])
        for row in rows
        if row["holds"] == "no"
    }
    assert impossible == {
        (table, row, "MATH500", cell)
        for table in ("table5", "table6")
        for row, cell in (("GRPO @ 30", 40.6), ("ASPO @ 30", 38.9))
    }
    assert len(rows) > 50


@pytest.mark.parametrize(
    ("score", "n", "holds"), [(73.3, 30, True), (40.6, 30, False), (46.7, 30, True), (38.9, 30, False)]
)
def test_exact_match_must_be_a_whole_number_of_answers(score, n, holds):
    assert whole_number(score, n, 1)[1] is holds


def test_an_average_may_differ_from_the_mean_of_its_printed_cells_only_by_rounding():
    assert mean_of_cells([33.3, 33.3, 33.3], 33.4, 1)[1] and not mean_of_cells([33.3, 33.3, 33.3], 33.6, 1)[1]


def test_a_changed_cell_in_a_table_of_this_run_is_an_error(tmp_path):
    def write(name, rows):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / name

    detail = {
        "table": "table5",
        "model": "m",
        "benchmark": "GSM8K",
        "metric": "em",
        "score": "73.3333",
        "n": "30",
        "seeds": "1",
        "samples": "1",
    }
    unchanged = [
        write("table5.csv", [{"model": "m", "A": "10.0", "B": "20.0", "Avg": "15.0"}]),
        write("table5_detail.csv", [detail]),
    ]
    assert "2 checks, all hold" in build("arithmetic", Inputs(data=unchanged), {})[""].notes[0]
    origin = {"data": "generated world", "model": "base", "seeds": 1}
    generated = build("arithmetic", Inputs(data=unchanged), {"origin": origin})[""]
    assert {row[0] for row in generated.rows} == {"this run"} and "The paper" not in " ".join(generated.notes)
    changed = write("table6_detail.csv", [detail | {"score": "73.4000"}])
    with pytest.raises(DataError, match="does not follow from the records: GSM8K"):
        build("arithmetic", Inputs(data=[changed]), {})
    changed = write("table6.csv", [{"model": "m", "A": "10.0", "B": "20.0", "Avg": "16.0"}])
    with pytest.raises(DataError, match="Avg is the mean"):
        build("arithmetic", Inputs(data=[changed]), {})
