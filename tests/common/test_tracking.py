"""Experiment trackers: which are used, and that none of them stops a run, slows it or shows a key."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from support.paths import ROOT

from tir.common.tracking import VARIABLE, Background, prepare
from tir.config.site import Tracking

KEY = "0123456789abcdef0123456789abcdef01234567"


def settings(tmp_path, **keys):
    return Tracking(directory=str(tmp_path), **keys).model_dump()


@pytest.fixture
def installed(monkeypatch):
    """Pretend that the given packages are installed, and no other tracker."""

    def pretend(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in names)

    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return pretend


@pytest.mark.parametrize("packages, asked, used, words", [
    (["tensorboard", "wandb"], "auto", ("tensorboard",), "tensorboard, run sft, files in"),
    (["wandb"], "auto", (), "tensorboard not installed in this stage's environment"),
    (["tensorboard", "wandb"], ["wandb", "mlflow"], ("wandb",), "mlflow not installed"),
    (["tensorboard"], [], (), ""),
])  # fmt: skip
def test_the_trackers_that_are_asked_for_and_installed_are_used(
    installed, tmp_path, capsys, packages, asked, used, words
):
    installed(*packages)
    run = prepare(settings(tmp_path, trackers=asked), "sft", {"a": 1})
    assert run.trackers == used and words in capsys.readouterr().err
    assert bool(run.variables) is bool(used)
    if used:
        assert json.loads(run.variables[VARIABLE]) == {"name": "sft", "project": "tool-star-aspo", "config": {"a": 1}}
        assert run.variables["TENSORBOARD_DIR"] == run.variables["TENSORBOARD_LOGGING_DIR"]
        assert run.variables["TENSORBOARD_DIR"] == f"{tmp_path}/tensorboard/sft"


def test_a_run_without_the_setting_has_no_tracker():
    assert prepare({}, "sft", {}).trackers == ()


def test_a_key_is_read_from_the_environment_alone(installed, tmp_path, capsys, monkeypatch):
    installed("wandb")
    online = settings(tmp_path, trackers=["wandb"], wandb_mode="online")
    assert prepare(online, "sft", {}).variables["WANDB_MODE"] == "offline"
    assert "WANDB_API_KEY is not set" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = prepare(online, "sft", {})
    assert run.variables["WANDB_MODE"] == "online" and KEY not in str(run) + capsys.readouterr().err


def test_mlflow_writes_to_the_stated_server_or_a_folder(installed, tmp_path, monkeypatch):
    installed("mlflow")
    asked = {"trackers": ["mlflow"]}
    address = "MLFLOW_TRACKING_URI"
    assert prepare(settings(tmp_path, **asked), "sft", {}).variables[address] == f"file://{tmp_path}/mlflow"
    monkeypatch.setenv(address, "http://there:1")
    assert prepare(settings(tmp_path, **asked), "sft", {}).variables[address] == "http://there:1"
    stated = settings(tmp_path, **asked, mlflow_uri="http://here:2")
    assert prepare(stated, "sft", {}).variables[address] == "http://here:2"


def test_calls_are_made_in_order_and_elsewhere():
    found = []
    tracker = Background("a", lambda: found)
    for number in range(100):
        tracker.put(lambda logger, number=number: logger.append((number, threading.current_thread().name)))
    assert tracker.close(lambda logger: logger.append("end"))
    assert found == [(number, "tracking-a") for number in range(100)] + ["end"]


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_the_first_error_is_printed_without_the_key_and_ends_the_tracker(capsys, monkeypatch, error):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    calls = []

    def fail(logger):
        calls.append(1)
        raise error(f"401 for {KEY} at http://me:secret@there/api\nmore")

    tracker = Background("wandb", object)
    tracker.put(fail)
    tracker._thread.join(5)
    tracker.put(fail)
    assert not tracker.close() and len(calls) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "wandb failed, the run goes on without it" in text and KEY[:20] not in text
    assert "http://there/api" in text and "secret" not in text


def test_a_tracker_that_does_not_answer_is_not_waited_for(capsys):
    blocked = threading.Event()
    tracker = Background("slow", blocked.wait)
    began = time.monotonic()
    for _ in range(1000):
        tracker.put(print)
    assert time.monotonic() - began < 1
    assert not tracker.close(seconds=0.2) and time.monotonic() - began < 2
    assert "slow does not answer" in capsys.readouterr().err
    blocked.set()


LEAVE = """
import atexit, sys, threading, time
from tir.common.tracking import Background, run

def main():
    atexit.register(time.sleep, 600)  # as a client that waits for its server
    Background("slow", threading.Event().wait)
    print("saved")
    if sys.argv[1] == "fails":
        raise ValueError("diverged")

run(main)
"""


@pytest.mark.parametrize("ends, status", [("well", 0), ("fails", 1)])
def test_a_process_ends_although_a_tracker_would_wait_at_its_exit(ends, status):
    command = [sys.executable, "-c", LEAVE, ends]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (status, "saved\n")
    assert done.stderr.count("ValueError: diverged") == status


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(installed, tmp_path, capsys):
    installed("tensorboard")
    (tmp_path / "file").touch()
    assert prepare(settings(tmp_path / "file"), "sft", {}).trackers == ()
    assert "cannot be written: File exists" in capsys.readouterr().err


ONLINE = """
import sys, time
from tir.common.tracking import Background, leave, prepare
import json, os
run = prepare(json.loads(sys.argv[1]), "sft", {})
os.environ.update(run.variables)
def start():
    import wandb
    wandb.init(project="p", name=run.name, dir=os.environ["WANDB_DIR"])
    return wandb
tracker, began = Background("wandb", start), time.monotonic()
tracker.put(lambda wandb: wandb.log({"loss": 1.0}))
assert time.monotonic() - began < 1
tracker.close(lambda wandb: wandb.finish(), seconds=3)
leave(0)
"""


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
def test_weights_and_biases_without_its_server_ends_with_the_run(tmp_path):
    """The real client, online, with an address where nobody listens."""
    given = json.dumps(settings(tmp_path, trackers=["wandb"], wandb_mode="online"))
    variables = os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ONLINE, given], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60 and KEY not in done.stdout + done.stderr
    assert "wandb does not answer" in done.stderr or "wandb failed" in done.stderr
