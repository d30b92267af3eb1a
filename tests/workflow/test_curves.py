"""Curves from the JSON Lines of runs: the numbers of the records, also of runs that go on, and a server on loopback."""

import json
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from support import made_up
from support.event_files import scalars
from support.paths import ROOT

from tir.workflow.curves import Curves, runs


@pytest.fixture
def root(tmp_path):
    made_up.write_metrics(tmp_path, arms=("aspo",), seeds=(1, 2), steps=6)
    made_up.write_sft(tmp_path, "full", steps=30)
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_run_has_the_numbers_of_its_record(root):
    curves = Curves(root, root / "tracking/tensorboard", root / "tracking/curves")
    assert curves.update() == ["aspo-seed1", "aspo-seed2", "sft"]
    curves.close()
    logged = [(row["step"], pytest.approx(row["loss"])) for row in lines(root / "runs/sft/full/log.jsonl")]
    assert scalars(root / "tracking/curves/sft", "loss") == logged
    rows = lines(root / "runs/rl/aspo/seed2/metrics.jsonl")
    shares = [(row["step"], pytest.approx(row["aspo/shift_share"])) for row in rows if "aspo/shift_share" in row]
    assert scalars(root / "tracking/curves/aspo-seed2", "aspo/shift_share") == shares and len(shares) == 6


def test_runs_with_event_files_of_their_trainer_are_left_out(root):
    for name in ("sft", "aspo-step6-seed1"):
        (root / "tracking/tensorboard" / name).mkdir(parents=True)
        (root / "tracking/tensorboard" / name / "events.out.tfevents.1").touch()
    assert Curves(root, root / "tracking/tensorboard", root / "tracking/curves").update() == ["aspo-seed2"]


def test_dpo_and_reinforcement_learning_after_it_are_runs_of_their_own(root):
    made_up.write_lines(root / "runs/dpo/aspo-step6-dpo1-seed1/training/log.jsonl", [{"step": 1, "loss": 0.69}])
    made_up.write_lines(root / "runs/rl/both/seed1/to12/metrics.jsonl", [{"step": 2, "critic/score/mean": 0.5}])
    curves = Curves(root, root / "tracking/tensorboard", root / "tracking/curves")
    assert {"aspo-step6-dpo1-seed1", "both-step12-seed1"} < set(curves.update())
    curves.close()
    assert scalars(root / "tracking/curves/aspo-step6-dpo1-seed1", "loss") == [(1, pytest.approx(0.69))]
    assert scalars(root / "tracking/curves/both-step12-seed1", "critic/score/mean") == [(2, 0.5)]

    trained = root / "tracking/tensorboard/aspo-step6-dpo1-seed1"  # its trainer's files say nothing about the RL run
    trained.mkdir(parents=True)
    (trained / "events.out.tfevents.1").touch()
    found = Curves(root, root / "tracking/tensorboard", root / "tracking/curves").update()
    assert "aspo-seed1" in found and trained.name not in found


def test_a_run_that_goes_on_is_followed(tmp_path):
    logs = tmp_path / "runs/rl/grpo/seed1/logs"
    first, second = ({"step": step, "data": {"critic/score/mean": step / 4, "note": "x"}} for step in (0, 1))
    made_up.write_lines(logs / "verl_000.jsonl", [first])
    trainer = tmp_path / "runs/sft/full/checkpoints/trainer_log.jsonl"
    made_up.write_lines(trainer, [{"current_steps": 5, "total_steps": 9, "loss": 2.5}])
    curves = Curves(tmp_path, tmp_path / "none", tmp_path / "curves")
    assert curves.update() == ["grpo-seed1", "sft"]
    with open(logs / "verl_000.jsonl", "a") as file:
        file.write(json.dumps(second) + "\n" + '{"step": 2, "da')
    repeated = {"step": 1, "data": {"critic/score/mean": 8.0}}
    curves.update()
    made_up.write_lines(logs / "verl_001.jsonl", [repeated, {"step": 2, "data": {"critic/score/mean": 9.0}}])
    curves.update()
    curves.close()
    assert scalars(tmp_path / "curves/grpo-seed1", "critic/score/mean") == [(0, 0), (1, 0.25), (2, 9)]
    assert scalars(tmp_path / "curves/sft", "loss") == [(5, 2.5)]
    assert dict(runs(tmp_path))["grpo-seed1"][1] == (1, {"critic/score/mean": 8.0})


def test_the_server_listens_on_the_loopback_address_and_shows_the_runs(root):
    command = [sys.executable, "-m", "scripts.watch", "--root", root, "--port", "0", "--every", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        try:
            text = ""
            while "TensorBoard: " not in text:
                line = server.stderr.readline()
                assert line, text
                text += line
            address = re.search(r"TensorBoard: (http://\S+)", text)[1]
            assert "runs: aspo-seed1, aspo-seed2, sft" in text and re.match(
                r"http://(127\.0\.0\.1|localhost):", address
            )
            tags = {}
            for _ in range(60):
                with urllib.request.urlopen(f"{address}data/plugin/scalars/tags", timeout=10) as answer:
                    tags = json.load(answer)
                if len(tags) == 3:
                    break
                time.sleep(0.5)
            assert "aspo/shift_share" in tags["records/aspo-seed1"] and "loss" in tags["records/sft"]
        finally:
            server.terminate()
