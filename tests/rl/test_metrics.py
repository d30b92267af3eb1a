"""Metrics of each step, from verl's logs and the records of its trajectories."""

import json

import pytest

from tir.rl.metrics import collect_records, merge_logs, read_log


def record(index: int, session: int, score: float, **more) -> dict:
    return {
        "index": index,
        "session": session,
        "ability": "math",
        "score": score,
        "accuracy": max(score, 0.0),
        "fault": "x" if score < 0 else None,
        "bonus": False,
        "executed": {"python": 1},
        "finish": "answer",
        "segments": [{"by": "model", "text": "<answer>1</answer>"}],
        "response_tokens": 4,
        **more,
    }


def test_metrics_have_one_row_per_step_and_upstream_names(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text(
        '{"step":0,"data":{"val-core/grpo_mix/reward/mean@1":0.25,"val-aux/num_turns/mean":2.0}}\n'
        '{"step":1,"data":{"critic/score/mean":0.1}}\n{"step":2,"data":{"critic/score/mean":9.0}}\n{"step":3,"da'
    )
    second.write_text('{"step":2,"data":{"critic/score/mean":0.2,"actor/pg_loss":null}}\n')
    trajectories = [record(0, 0, 1.0), record(0, 1, -1.0), record(1, 0, 0.0), record(1, 1, 0.0), record(2, 0, 0.0)]
    records = {("train", 2): trajectories, ("val", 0): [record(1, 0, 0.0, ability="qa")]}
    rows = merge_logs([first, second], records)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["val/test_score/grpo_mix"] == 0.25 and rows[0]["val/score/qa"] == 0.0
    assert rows[2]["critic/score/mean"] == 0.2 and "actor/pg_loss" not in rows[2]  # values of the later log
    assert (
        rows[2]["train/score/math"] == 0.0
        and rows[2]["train/fault_rate"] == 0.2
        and rows[2]["train/python_calls"] == 1.0
    )
    assert rows[2]["train/zero_variance_share"] == 0.5  # of two groups; one trajectory is no group
    assert "val/zero_variance_share" not in rows[0]
    assert read_log(tmp_path / "absent.jsonl") == []


def test_metrics_say_what_the_trajectories_of_each_ability_do(tmp_path):
    """Also without a shaping term, so that arms can be compared."""
    texts = ("<think>abc</think><python>1</python>", "<result>1</result>", "<think>no</think><answer>2</answer>")
    rethought = [{"by": by, "text": text} for by, text in zip(("model", "tool", "model"), texts, strict=True)]
    rows = [
        record(0, 0, 1.0, segments=rethought, response_tokens=20),
        record(0, 1, 0.0, finish="length", response_tokens=10),
        record(1, 0, 0.0, ability="qa"),
    ]
    log = tmp_path / "log.jsonl"
    log.write_text('{"step":1,"data":{"critic/score/mean":0.1}}\n')
    found = merge_logs([log], {("train", 1): rows})[0]
    assert found["train/bigram/python-think/math"] == found["train/bigram/think-python/math"] == 0.5
    assert found["train/bigram/python-answer/math"] == found["train/bigram/python-think/qa"] == 0.0
    assert found["train/calls/math"] == 0.5 and found["train/truncated/math"] == 0.5
    assert found["train/tokens/math"] == 15.0 and found["train/tokens/qa"] == 4.0
    characters = len("<think>abc</think>")
    assert found["train/first_tool/math"] == characters
    assert found["train/first_tool_share/math"] == pytest.approx(characters / (len(texts[0]) + len(texts[2])))
    assert "train/first_tool/qa" not in found  # no question has a tool call


def test_records_of_several_processes_are_merged_and_sorted(tmp_path):
    for process, rows in ((7, [record(2, 1, 0.0), record(2, 0, 1.0)]), (8, [record(1, 0, 1.0)])):
        (tmp_path / f"train_3.{process}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect_records(tmp_path)
    assert [(row["index"], row["session"]) for row in found["train", 3]] == [(1, 0), (2, 0), (2, 1)]
