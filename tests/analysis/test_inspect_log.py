"""Evaluation logs of inspect_ai, written and read back by its own API in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import made_up
from support.paths import ROOT

PYTHON = Path(os.environ.get("TIR_INSPECT_PYTHON", ROOT / ".venv/inspect/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: run `make inspect`")
# Writes a log as the rule does, reads it with inspect_ai, and prints what the tests compare.
RUN = """
import json, sys
from inspect_ai.log import read_eval_log
from scripts import write_inspect_log

write_inspect_log.main()

def message(each):
    calls = [[call.function, call.arguments] for call in getattr(each, "tool_calls", None) or []]
    found = {"role": each.role, "text": each.text, "calls": calls}
    return found | {"call_id": getattr(each, "tool_call_id", None), "error": bool(getattr(each, "error", None))}

def sample(each):
    scores = each.scores and {name: one.value for name, one in each.scores.items()}
    found = {"id": each.id, "epoch": each.epoch, "target": each.target, "scores": scores}
    found |= {"answer": each.scores and each.scores["correct"].answer, "stop": each.output.stop_reason}
    return found | {"messages": [message(one) for one in each.messages]}

log = read_eval_log(sys.argv[sys.argv.index("--output") + 1])
spec, scores = log.eval, log.results.scores
order = {name: number for number, name in enumerate(spec.dataset.sample_ids)}
samples = sorted(log.samples, key=lambda each: (each.epoch, order[each.id]))
found = {"status": log.status, "model": spec.model, "task": spec.task, "items": spec.dataset.samples}
found |= {"temperature": spec.model_generate_config.temperature, "epochs": spec.config.epochs}
found |= {"metadata": spec.metadata, "means": {each.name: each.metrics["mean"].value for each in scores}}
found |= {"scored": {each.name: [each.scored_samples, each.unscored_samples] for each in scores}}
print(json.dumps(found | {"samples": [sample(each) for each in samples]}))
"""


@pytest.fixture
def root(tmp_path):
    made_up.write_scores(tmp_path, ["sft"])
    made_up.write_traces(tmp_path, ["sft"])
    (tmp_path / "prompt.txt").write_text("Use tools.")
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def export(root, benchmark):
    """Write the log of a benchmark, and read it with inspect_ai."""
    output = root / f"results/inspect/sft_{benchmark}.eval"
    settings = {"evaluation": {"temperature": 0.5, "samples": 1}, "generated": "generated world"}
    options = {
        "--traces": root / f"traces/sft/{benchmark}.jsonl",
        "--scores": root / f"scores/sft/{benchmark}.jsonl",
        "--system-prompt": root / "prompt.txt",
        "--output": output,
        "--params": json.dumps(settings),
    }
    command = [PYTHON, "-c", RUN, *(str(each) for pair in options.items() for each in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("benchmark", ["gsm8k", "musique"])
def test_a_log_has_every_trajectory_with_its_scores(root, benchmark):
    found, traces = export(root, benchmark), lines(root / f"traces/sft/{benchmark}.jsonl")
    scores = lines(root / f"scores/sft/{benchmark}.jsonl")
    head = [found[key] for key in ("status", "model", "task", "temperature", "epochs", "items")]
    assert head == ["success", "sft", benchmark, 0.5, 1, 30] and found["metadata"]["generated"] == "generated world"
    assert [each["id"] for each in found["samples"]] == [each["id"] for each in traces]
    for sample, score, trace in zip(found["samples"], scores, traces):
        assert sample["scores"]["correct"] == ("C" if score["correct"] else "I")
        assert (sample["scores"]["f1"], sample["scores"]["em"]) == (score["f1"], score["em"])
        assert ("math_equal" in sample["scores"]) == (benchmark == "gsm8k") and sample["answer"] == "1"
        assert sample["stop"] == {"answer": "stop", "length": "max_tokens"}[trace["finish"]]
        texts = [[each["role"], each["text"]] for each in sample["messages"]]
        roles = {"model": "assistant", "tool": "tool"}
        written = [[roles[each["by"]], each["text"]] for each in trace["segments"]]
        assert texts == [["system", "Use tools."], ["user", "q"], *written]
    assert found["means"]["f1"] == pytest.approx(sum(each["f1"] for each in scores) / 30)
    assert found["means"]["correct"] == pytest.approx(sum(each["correct"] for each in scores) / 30)


def test_calls_and_their_failures_are_stated(root):
    path = root / "traces/sft/gsm8k.jsonl"
    rows = lines(path)
    rows[0]["segments"] = [
        {"by": "model", "text": "<think>t</think><python>1/0</python>", "token_ids": []},
        {"by": "tool", "text": "<result>\nZeroDivisionError: division by zero\n</result>", "token_ids": []},
        {"by": "model", "text": "<search>who\u2028\u202e</search>", "token_ids": []},
        {"by": "tool", "text": "<result>\nnobody\n</result>", "token_ids": []},
        {"by": "model", "text": "<python>never run</python>", "token_ids": []},
    ]
    rows[0]["answer"] = None
    made_up.write_lines(path, rows)
    sample = export(root, "gsm8k")["samples"][0]
    messages = sample["messages"][2:]
    calls = [["python", {"code": "1/0"}]], [], [["search", {"query": "who\u2028\u202e"}]], [], []
    assert [each["calls"] for each in messages] == list(calls) and sample["answer"] is None
    assert [each["error"] for each in messages] == [False, True, False, False, False]
    assert [each["call_id"] for each in messages] == [None, "call-1", None, "call-3", None]


def test_a_trajectory_without_a_score_has_none(root):
    path = root / "scores/sft/gsm8k.jsonl"
    made_up.write_lines(path, lines(path)[:-2])
    found = export(root, "gsm8k")
    assert [each["scores"] for each in found["samples"][-2:]] == [None, None] and found["samples"][0]["scores"]
    assert found["scored"]["correct"] == [28, 2]


def test_several_samples_of_an_item_are_epochs_and_count_as_one_item(root):
    for kind in ("traces", "scores"):
        path = root / kind / "sft/gsm8k.jsonl"
        rows = lines(path)
        again = [row | {"sample": 1} | ({"correct": True} if kind == "scores" else {}) for row in rows]
        made_up.write_lines(path, [*rows, *again])
    found, scores = export(root, "gsm8k"), lines(root / "scores/sft/gsm8k.jsonl")
    assert (found["epochs"], found["items"], len(found["samples"])) == (2, 30, 60)
    assert {each["epoch"] for each in found["samples"]} == {1, 2}
    assert found["means"]["correct"] == pytest.approx(sum(each["correct"] for each in scores) / 60)
