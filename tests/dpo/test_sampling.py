"""The script that samples for DPO, killed in the middle and repeated, writes the same trajectories."""

import json
import signal
import subprocess
import sys

import pytest
from support.adapters import tiny_policy
from support.configuration import merged
from support.paths import ROOT
from support.processes import wait_until

from tir.common.records import read_jsonl, write_jsonl, write_text
from tir.config.experiment import load
from tir.config.params import operational_params, params, without
from tir.workflow import routes

PROMPTS = 6


def command(folder, output):
    """The rule's command, on a laptop, for the prompts of math; one at a time, so that all batches are the same."""
    config = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), ["config.yaml"])
    sampling = config.dpo_sampling(1).model_copy(update={"concurrency": 1, "samples": 2, "max_response_tokens": 48})
    given = params(
        evaluation=without(sampling, "golds", "tools"),
        tools=routes.settings(config.tools, "math"),
        device="cpu",
        task="math",
        n=PROMPTS,
        helper_models={},
    )
    options = {"model": folder / "policy", "items": folder / "math.jsonl", "system-prompt": folder / "prompt.txt"}
    options |= {"index": "none", "output": output, "params": given}
    options |= {"operational": operational_params(evaluation=sampling, tools=config.tools)}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "scripts.generate_traces", *words]


def trajectories(path):
    """The records without their times."""
    return [{key: value for key, value in row.items() if key != "timings"} for row in read_jsonl(path)]


@pytest.mark.slow
def test_a_killed_job_continues_and_samples_the_same_trajectories(tmp_path):
    tiny_policy(tmp_path / "policy")
    (tmp_path / "policy/manifest.json").write_text(json.dumps({"model": "grpo-step2-seed1"}))
    write_text(tmp_path / "prompt.txt", "Use tools.")
    write_jsonl(
        tmp_path / "math.jsonl", [{"row": n, "question": f"{n} + 1?", "answer": [f"{n + 1}"]} for n in range(PROMPTS)]
    )
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    subprocess.run(command(tmp_path, whole), cwd=ROOT, check=True, capture_output=True)
    partial = killed.with_name("killed.jsonl.partial")
    job = subprocess.Popen(command(tmp_path, killed), cwd=ROOT, stderr=subprocess.DEVNULL)
    begun = lambda: partial.exists() and partial.read_bytes().count(b"\n") > 4  # noqa: E731
    wait_until(lambda: begun() or job.poll() is not None, 600)
    job.kill()
    assert job.wait() == -signal.SIGKILL and begun() and not killed.exists()
    done = subprocess.run(command(tmp_path, killed), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "resuming: " in done.stderr, done.stderr
    assert trajectories(killed) == trajectories(whole) and len(trajectories(whole)) == 2 * PROMPTS
