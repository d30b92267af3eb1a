"""Evaluation logs of inspect_ai, written and read back by its own API in an environment of its own."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from support import made_up
from support.chromium import PROGRAM, Browser
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
    found |= {"answer": each.scores and next(iter(each.scores.values())).answer, "stop": each.output.stop_reason}
    found |= {"tokens": {name: usage.total_tokens for name, usage in each.model_usage.items()}}
    return found | {"messages": [message(one) for one in each.messages]}

log = read_eval_log(sys.argv[sys.argv.index("--output") + 1])
spec, scores = log.eval, log.results.scores if log.results else []
order = {name: number for number, name in enumerate(spec.dataset.sample_ids)}
samples = sorted(log.samples, key=lambda each: (each.epoch, order[each.id]))
found = {"status": log.status, "model": spec.model, "task": spec.task, "items": spec.dataset.samples}
found |= {"temperature": spec.model_generate_config.temperature, "epochs": spec.config.epochs}
found |= {"tokens": {name: usage.total_tokens for name, usage in log.stats.model_usage.items()}}
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


def write(root, name, *options, status=0):
    """Write a log, and read it with inspect_ai; or return what was printed if it shall fail."""
    settings = {"evaluation": {"temperature": 0.5, "samples": 1}, "generated": "generated world"}
    output = root / f"results/inspect/{name}.eval"
    command = [PYTHON, "-c", RUN, *options, "--system-prompt", root / "prompt.txt", "--output", output]
    done = subprocess.run([*command, "--params", json.dumps(settings)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr if status else json.loads(done.stdout)


def export(root, benchmark, **more):
    """The log of a benchmark."""
    records = [(f"--{kind}", root / f"{kind}/sft/{benchmark}.jsonl") for kind in ("traces", "scores")]
    return write(root, f"sft_{benchmark}", *(each for pair in records for each in pair), **more)


def export_rollouts(root, step=2, **more):
    """The log of a step of reinforcement learning, which is made of the trajectories of a benchmark."""
    rows = [
        {"index": 7, "session": number, "ability": "math", "fault": None, "bonus": False, "executed": {}}
        | {key: row[key] for key in ("question", "gold", "segments", "finish")}
        | {"score": 0.1, "accuracy": 0.0, "model_tokens": 20, "response_tokens": 30, "seconds": 0.5}
        for number, row in enumerate(lines(root / "traces/sft/gsm8k.jsonl")[:2])
    ]
    run = root / "runs/rl/aspo/seed1"
    made_up.write_lines(run / "rollouts/train_2.jsonl", rows)
    return write(root, f"rl/aspo-step{step}-seed1_train", "--run", run, "--kind", "train", "--step", str(step), **more)


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


def test_the_data_frame_of_inspect_ai_has_every_trajectory(root):
    export(root, "gsm8k")
    code = "from inspect_ai.analysis import samples_df; print(*samples_df('results/inspect', quiet=True).score_correct)"
    done = subprocess.run([PYTHON, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    right = [score["correct"] for score in lines(root / "scores/sft/gsm8k.jsonl")]
    assert sorted(done.stdout.split()) == sorted("C" if each else "I" for each in right) and len(set(right)) == 2


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


def test_tokens_are_those_of_model_and_tools_or_none(root):
    path = root / "traces/sft/gsm8k.jsonl"
    rows = lines(path)
    made_up.write_lines(path, [row | {"usage": {"model_tokens": 20, "response_tokens": 50}} for row in rows])
    found = export(root, "gsm8k")
    assert found["tokens"] == {"sft": 1500} and found["samples"][0]["tokens"] == {"sft": 50}
    made_up.write_lines(path, rows)  # without the model's own tokens
    found = export(root, "gsm8k")
    assert found["tokens"] == {} and found["samples"][0]["tokens"] == {}


def test_rollouts_are_a_log_of_their_own_with_their_rewards(root):
    found = export_rollouts(root)
    assert [found[key] for key in ("status", "model", "task")] == ["success", "aspo-seed1", "train-step2"]
    assert [(each["id"], each["epoch"]) for each in found["samples"]] == [(7, 1), (7, 2)]
    assert found["samples"][0]["scores"] == {"reward": 0.1, "accuracy": 0, "bonus": 0}
    assert found["means"]["reward"] == pytest.approx(0.1) and found["tokens"] == {"aspo-seed1": 60}
    assert "train_3.jsonl: no rollouts of this step: the run has some of step 2." in export_rollouts(root, 3, status=1)


def test_a_benchmark_that_is_being_written_is_one_that_goes_on(root):
    path = root / "traces/sft/gsm8k.jsonl"
    usage = {"usage": {"model_tokens": 20, "response_tokens": 50}}
    made_up.write_lines(path, [row | usage for row in lines(path)])
    unfinished(root, "gsm8k")
    found = export(root, "gsm8k")
    assert found["status"] == "started" and found["means"] == {} and found["tokens"] == {"sft": 29 * 50}
    assert [each["scores"] for each in found["samples"]] == [None] * 29


def unfinished(root, benchmark):
    """Make the trajectories of a benchmark those of a job that goes on: the last record is half written."""
    path = root / f"traces/sft/{benchmark}.jsonl"
    path.with_name(f"{path.name}.partial").write_text('{"work": 1}\n' + path.read_text()[:-40])
    path.unlink()


@pytest.fixture
def viewer(root, tmp_path):
    """The address of inspect_ai's viewer with three logs: of a benchmark, of RL, and of a job that goes on."""
    path = root / "traces/sft/gsm8k.jsonl"
    rows = lines(path)
    rows = [row | {"timings": {"seconds": 1.5}} for row in rows]
    rows[0] |= {"question": "<img src=x onerror='window.bad=1'>how many?", "answer": "41"}
    rows[0]["segments"] = [
        {"by": "model", "text": "<think>first thought</think><python>print(6 * 7)</python>", "token_ids": []},
        {"by": "tool", "text": "<result>\n42<script>window.bad=1</script>\n</result>", "token_ids": []},
        {"by": "model", "text": "<answer>\\boxed{41}</answer>", "token_ids": []},
    ]
    made_up.write_lines(path, rows)
    export(root, "gsm8k")
    export_rollouts(root)
    unfinished(root, "musique")
    export(root, "musique")
    command = [PYTHON.parent / "inspect", "view", "bundle", "--log-dir", root / "results/inspect"]
    subprocess.run([*command, "--output-dir", tmp_path / "site"], check=True, capture_output=True, cwd=tmp_path)
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"no {PROGRAM}: apt-get install chromium")
def test_the_viewer_shows_the_logs(viewer, tmp_path):
    with Browser(1400, 1000) as browser:

        def shown(fragment, *texts):
            browser.open(viewer, fragment)
            for text in texts:
                browser.wait(f"document.body.innerText.includes({json.dumps(text)})", 120)
            assert not [each for each in browser.requests if not each.startswith((viewer, "data:"))]
            return browser.run("document.body.innerText")

        shown("", "gsm8k", "train-step2", "musique", "3 items")
        text = shown("#/logs/sft_gsm8k.eval", "30 Samples", "math_equal", "45.0 sec")
        assert "NaN" not in text
        text = shown("#/logs/sft_gsm8k.eval/samples/sample/0/1/", "how many?", "first thought", "print(6 * 7)", "41")
        browser.picture(tmp_path / "sample.png")
        assert "42" in text and (tmp_path / "sample.png").stat().st_size > 20_000
        assert browser.run("window.bad") is None
        shown("#/logs/rl/aspo-step2-seed1_train.eval", "aspo-seed1", "reward", "2 Samples")
        text = shown("#/logs/sft_musique.eval", "29 Samples")
        assert "correct" not in text.lower()
