"""Records that the exports to other tools read: finished, half-written, damaged and missing ones."""

import json
import os

import pytest
from support import made_up

from tir.analysis.exports import item_mean, of_benchmark, of_rollouts, values
from tir.common.errors import DataError


def rollout(index, session, **more):
    return {
        "index": index,
        "session": session,
        "ability": "math",
        "question": f"question {index}",
        "gold": ["5"],
        "segments": [
            {"by": "model", "text": "<think>t</think><python>1</python>"},
            {"by": "tool", "text": "<result>\n1\n</result>"},
            {"by": "model", "text": "<answer>\\boxed{4}</answer>"},
        ],
        "finish": "answer",
        "executed": {"python": 1},
        "score": -1.0,
        "accuracy": 0.0,
        "fault": "no think block",
        "bonus": False,
        "model_tokens": 20,
        "response_tokens": 30,
        "seconds": 0.5,
        **more,
    }


@pytest.fixture
def benchmark(tmp_path):
    made_up.write_scores(tmp_path, ["sft"])
    made_up.write_traces(tmp_path, ["sft"])
    return tmp_path / "traces/sft/gsm8k.jsonl", tmp_path / "scores/sft/gsm8k.jsonl"


@pytest.fixture
def run(tmp_path):
    made_up.write_lines(tmp_path / "rollouts/train_2.jsonl", [rollout(7, session) for session in (0, 1)])
    return tmp_path


def test_a_finished_benchmark_has_its_scores(benchmark):
    os.utime(benchmark[0], (5, 5))
    found = of_benchmark(*benchmark)
    assert found.finished and len(found.traces) == 30 and found.created == 5
    assert found.score(found.traces[3])["id"] == "3"


def test_a_benchmark_that_is_being_written_has_its_whole_records_and_no_scores(benchmark):
    traces, scores = benchmark
    lines = traces.read_text().splitlines(keepends=True)
    traces.with_name("gsm8k.jsonl.partial").write_text('{"work": 1}\n' + "".join(lines[:4]) + lines[4][:50])
    traces.unlink()
    found = of_benchmark(traces, scores)
    assert not found.finished and [each["id"] for each in found.traces] == ["0", "1", "2", "3"]
    assert [found.score(each) for each in found.traces] == [None] * 4


def test_a_model_without_scores_has_none(benchmark):
    benchmark[1].unlink()
    found = of_benchmark(*benchmark)
    assert found.finished and found.score(found.traces[0]) is None


@pytest.mark.parametrize("spoil, said", [
    (lambda path: path.unlink(), "cannot read file: No such file"),
    (lambda path: path.write_text(""), "no trajectories: the file has no whole record"),
    (lambda path: path.write_text(path.read_text()[:-9]), "gsm8k.jsonl:30: not valid JSON Lines"),
    (lambda path: path.rename(f"{path}.partial").write_text('{"work": 1}\n{"id'), "partial: no trajectories"),
])  # fmt: skip
def test_missing_empty_and_damaged_records_are_errors(benchmark, spoil, said):
    spoil(benchmark[0])
    with pytest.raises(DataError, match=said):
        of_benchmark(*benchmark)


def test_rollouts_are_trajectories_with_their_rewards(run):
    found = of_rollouts(run, "train", 2)
    first = found.traces[0]
    assert found.finished and [(each["id"], each["sample"]) for each in found.traces] == [(7, 0), (7, 1)]
    assert (first["question"], first["answer"], first["fault"]) == ("question 7", "4", "no think block")
    assert (first["n_python"], first["n_search"], first["first_tool_offset"]) == (1, 0, 16)
    assert first["usage"] == {"model_tokens": 20, "response_tokens": 30}
    assert values(found.score(first)) == {"reward": -1, "accuracy": 0, "bonus": 0}


def test_rollouts_of_a_step_that_goes_on_are_those_sampled_so_far(run):
    for process, session in ((9, 1), (5, 0)):
        made_up.write_lines(run / f"records/train_3.{process}.jsonl", [rollout(4, session)])
    with open(run / "records/train_3.5.jsonl", "a") as file:
        file.write(json.dumps(rollout(4, 2))[:40])
    found = of_rollouts(run, "train", 3)
    assert not found.finished and [each["sample"] for each in found.traces] == [0, 1]


def test_a_step_without_rollouts_is_an_error_that_names_the_others(run):
    made_up.write_lines(run / "records/train_3.5.jsonl", [rollout(4, 0)])
    with pytest.raises(DataError, match=r"train_9.jsonl: no rollouts of this step: the run has some of step 2, 3"):
        of_rollouts(run, "train", 9)
    with pytest.raises(DataError, match="has no rollouts at all"):
        of_rollouts(run, "val", 0)


def test_rollouts_of_an_older_run_are_named_as_such(run):
    row = rollout(1, 0)
    del row["question"]
    made_up.write_lines(run / "rollouts/train_1.jsonl", [row])
    with pytest.raises(DataError, match=r"train_1.jsonl:1: a row lacks a key: it has no question"):
        of_rollouts(run, "train", 1)


def test_the_values_of_an_item_are_averaged_first():
    assert item_mean([("a", 0.0), ("a", 1.0), ("b", 1.0)]) == (0.75, 0.25)
    assert item_mean([("a", 1.0)]) == (1.0, None)
