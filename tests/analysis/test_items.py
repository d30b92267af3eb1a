"""The table of all trajectories: every column from records with known values, and nothing missing counted as zero."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from pyarrow import parquet
from support import made_up
from support.paths import ROOT

from tir.analysis.items import COLUMNS, arm_of, collect, write
from tir.analysis.tool_errors import failed_calls
from tir.common.errors import DataError
from tir.rollout.protocol import Segment

ERRORS = [
    ("KeyError: 42", True),
    ("12\nZeroDivisionError: division by zero", True),
    ("numpy.linalg.LinAlgError: Singular matrix", True),
    ("timed out after 5 s", True),
    ("ValueError: first line\nsecond line", True),
    ("the Error: of my ways", False),
    ("Done", False),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    models = ["sft", "aspo-step30-seed2"]
    made_up.write_scores(root, models)
    made_up.write_traces(root, models)
    return root


@pytest.fixture
def copy(root, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def frame(found, path):
    write(found.rows, path, "generated world")
    return pd.read_parquet(path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_trajectory_is_a_row_with_its_metrics_and_behaviour(root, tmp_path):
    table = frame(collect(root), tmp_path / "items.parquet")
    assert list(table.columns) == [name for name, *_ in COLUMNS] and len(table) == 2 * 8 * 30
    assert set(table.state) == {"scored"} and parquet.read_schema(tmp_path / "items.parquet").metadata[b"origin"]
    arm = table[table.model == "aspo-step30-seed2"]
    assert (set(arm.arm), set(arm.step), set(arm.seed)) == ({"aspo"}, {30}, {2})
    assert table[table.model == "sft"][["arm", "step", "seed"]].isna().all(axis=None)
    for model, benchmark in (("sft", "gsm8k"), ("aspo-step30-seed2", "musique")):
        rows = table[(table.model == model) & (table.benchmark == benchmark)].set_index("item")
        traces, scores = (lines(root / kind / model / f"{benchmark}.jsonl") for kind in ("traces", "scores"))
        assert len(rows) == len(traces) == len(scores)
        for trace, score in zip(traces, scores):
            row = rows.loc[trace["id"]]
            assert (row.f1, bool(row.correct), row.em) == (score["f1"], score["correct"], score["em"])
            assert (row.n_python, row.n_search, row.calls) == (
                trace["n_python"],
                trace["n_search"],
                trace["n_python"] + trace["n_search"],
            )
            assert row.response_tokens == trace["usage"]["response_tokens"] and row.answer == "1"
            offset = trace["first_tool_offset"]
            assert pd.isna(row.first_tool_offset) if offset < 0 else row.first_tool_offset == offset
            text = "".join(each["text"] for each in trace["segments"] if each["by"] == "model")
            written = re.findall(r"<(think|python|search|answer)>", text)
            assert list(row.actions) == written
            assert list(row.bigrams) == [f"{a}→{b}" for a, b in zip(written, written[1:])]
        assert rows.math_equal.isna().all() == (benchmark == "musique")


@pytest.mark.parametrize("model, parts", [
    ("aspo-step30-seed2", ("aspo", 30, None, 2)),
    ("grpo-step15-dpo1-seed3", ("grpo", 15, 1, 3)),
    ("sft-epoch2", (None, None, None, None)),
])  # fmt: skip
def test_a_model_id_is_taken_apart(model, parts):
    assert tuple(arm_of(model).values()) == parts


def test_a_model_without_scores_has_none_and_not_zero(copy, tmp_path):
    (copy / "scores/sft/gsm8k.jsonl").unlink()
    lost = copy / "scores/sft/aime24.jsonl"
    lost.write_text("".join(lost.read_text().splitlines(keepends=True)[:-2]))
    found = collect(copy)
    table = frame(found, tmp_path / "items.parquet")
    without = table[table.state == "not scored"]
    assert dict(without.benchmark.value_counts()) == {"gsm8k": 30, "aime24": 2}
    assert without[["correct", "em", "f1", "math_equal"]].isna().all(axis=None) and without.calls.notna().all()
    assert [note.split()[0] for note in found.notes] == ["2", "30"] and "scores of an" not in str(found.notes)


def test_a_file_that_is_being_written_is_shown_as_unfinished(copy, tmp_path):
    path = copy / "traces/sft/gsm8k.jsonl"
    written = path.read_text().splitlines(keepends=True)
    path.unlink()
    path.with_name("gsm8k.jsonl.partial").write_text('{"work": "0"}\n' + "".join(written[:7]) + written[7][:50])
    found = collect(copy)
    table = frame(found, tmp_path / "items.parquet")
    part = table[(table.model == "sft") & (table.benchmark == "gsm8k")]
    assert list(part.state) == ["unfinished"] * 7 and part.correct.isna().all() and part.answer.notna().all()
    assert any(note.startswith("7 trajectories of an unfinished file, 1 incomplete lines") for note in found.notes)
    assert any(note.startswith("30 scores of an earlier run are left out") for note in found.notes)


def test_scores_whose_trajectories_were_deleted_stay(copy, tmp_path):
    shutil.rmtree(copy / "traces")
    table = frame(collect(copy), tmp_path / "items.parquet")
    assert set(table.state) == {"no trajectory"} and len(table) == 480
    assert table.correct.notna().all() and table[["calls", "answer", "response_tokens"]].isna().all(axis=None)


def test_verdicts_of_the_judge_decide_only_if_they_shall(copy):
    keys = [(row["id"], row["sample"]) for row in lines(copy / "scores/sft/gsm8k.jsonl")]
    rows = [{"id": name, "sample": sample, "verdict": int(name) % 2 == 0} for name, sample in keys]
    rows[3]["verdict"] = None
    made_up.write_lines(copy / "judge/sft/gsm8k.jsonl", rows)
    selection = {"": {"sft": ["gsm8k"]}}
    stored, decided = collect(copy, selection).rows, collect(copy, selection, judge_decides=True).rows
    assert [row["judge"] for row in stored] == [row["verdict"] for row in rows] == [row["judge"] for row in decided]
    assert {row["decided_by"] for row in stored} == {None} and stored[3]["correct"] == decided[3]["correct"]
    assert all(row["correct"] == row["judge"] for row in decided if row["judge"] is not None)
    file = "judge/sft/gsm8k.jsonl"
    assert collect(copy, selection, judged=[file]).rows == stored
    assert all(row["judge"] is None for row in collect(copy, selection, judged=[f"sampled/{file}"]).rows)


def test_folders_of_other_records_are_kept_apart(root, tmp_path):
    for folder in ("sampled", "n500", "n500/sampled"):
        shutil.copytree(root / "traces/sft", tmp_path / folder / "traces/sft")
    shutil.copytree(root / "traces", tmp_path / "backup/traces")
    rows = collect(tmp_path).rows
    assert {row["folder"] for row in rows} == {"sampled", "n500", "n500/sampled"} and len(rows) == 3 * 240


def test_what_was_asked_for_and_is_missing_or_damaged_is_an_error(copy):
    with pytest.raises(DataError, match="sampled/sft/gsm8k: no records"):
        collect(copy, {"sampled": {"sft": ["gsm8k"]}})
    path = copy / "traces/sft/gsm8k.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"gsm8k\.jsonl:30"):
        collect(copy)


def test_records_of_another_form_are_named_and_never_wrong_answers(copy):
    path = copy / "scores/sft/gsm8k.jsonl"
    made_up.write_lines(path, [row | {"correct": None} for row in lines(path)])
    found = collect(copy, {"": {"sft": ["gsm8k"]}})
    assert {row["correct"] for row in found.rows} == {None}
    path = copy / "traces/sft/gsm8k.jsonl"
    for segments in (None, [{"by": "model", "text": None}], ["text"]):
        made_up.write_lines(path, [row | {"segments": segments} for row in lines(path)])
        with pytest.raises(DataError, match="id '0', sample 0: a trajectory without its text"):
            collect(copy, {"": {"sft": ["gsm8k"]}})


@pytest.mark.parametrize("text, failed", ERRORS)
def test_failed_calls_are_recognised_by_their_text(text, failed):
    call = Segment("model", "<think>t</think><python>1/0</python>")
    result, search = Segment("tool", f"<result>\n{text}\n</result>"), Segment("model", "<search>q</search>")
    answer = Segment("model", "KeyError: 42<answer>1</answer>")
    assert failed_calls([call, result, search, result, answer]) == int(failed)


def test_the_script_writes_all_that_exists_now(root, tmp_path):
    command = [sys.executable, "-m", "scripts.collect_items", "--root", root, "--output", tmp_path / "now.parquet"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and f"480 trajectories: {tmp_path}/now.parquet" in done.stderr, done.stderr
    assert len(pd.read_parquet(tmp_path / "now.parquet")) == 480
    assert json.loads((tmp_path / "now.parquet.provenance.json").read_text())["code_digest"].startswith(
        "scripts.collect"
    )


def test_every_column_is_documented():
    page = (ROOT / "docs/looking.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("What was not measured")[0], re.M)
    assert documented == [(name, text) for name, _, text in COLUMNS]
