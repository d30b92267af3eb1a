"""GPUs of one machine: no device has two jobs, a job that needs all of them gets them, and a dead job frees its own."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.nvidia_smi import UUIDS, fake_nvidia_smi
from support.paths import ROOT

from tir.common.devices import claim, visible_devices, without
from tir.common.errors import ConfigError, InfrastructureFault

# Writes its devices and the time when it starts, then the time when it ends.
JOB = (
    "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], time.time()); time.sleep(0.2); print(time.time())"
)


@pytest.fixture
def run(tmp_path):
    """Start a job on some of the devices 0 to 3."""

    def start(count: int, program: str = JOB) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.with_gpus", str(count), sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "TMPDIR": str(tmp_path)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def test_jobs_at_the_same_time_have_different_devices(run):
    counts = [1, 2, 4, 1, 3, 2]
    with ThreadPoolExecutor(len(counts)) as pool:
        outputs = list(pool.map(lambda job: job.communicate()[0], [run(count) for count in counts]))
    spans = []
    for count, output in zip(counts, outputs, strict=True):
        first, last = output.splitlines()
        devices, begin = first.split()
        assert len(devices.split(",")) == count
        spans.append((set(devices.split(",")), float(begin), float(last)))
    for number, (devices, begin, end) in enumerate(spans):
        for others, start, stop in spans[number + 1 :]:
            assert end <= start or stop <= begin or not devices & others


def test_the_devices_of_a_killed_job_are_free_again(run):
    first = run(4, "import time; print('started', flush=True); time.sleep(600)")
    assert first.stdout.readline() == "started\n"
    waiting = run(4)
    time.sleep(0.5)
    assert waiting.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert waiting.communicate()[0].startswith("0,1,2,3 ")


def test_a_job_without_gpus_sees_none(run):
    assert run(0, "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))").communicate()[0] == "''\n"


def test_a_job_without_gpus_does_not_queue_behind_one_that_waits_for_gpus(run):
    first = run(4, "import time; print('started', flush=True); time.sleep(600)")
    assert first.stdout.readline() == "started\n"
    waiting = run(1)
    time.sleep(1.0)
    try:
        run(0, "pass").communicate(timeout=20)
        assert waiting.poll() is None
    finally:
        first.kill()
        first.communicate()
        waiting.communicate()


@pytest.mark.parametrize("devices", [["0", "1", "2", "3"], list(UUIDS)], ids=["indices", "UUIDs"])
@pytest.mark.parametrize(
    "taken, left",
    [("", [0, 1, 2, 3]), ("0", [1, 2, 3]), ("GPU-b2, 3", [0, 2]), ("GPU-c", [0, 1, 3]), ("7", [0, 1, 2, 3])],
)
def test_the_devices_of_the_retrieval_server_are_left_out_by_index_or_uuid(tmp_path, monkeypatch, devices, taken, left):
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path))
    assert without(devices, taken) == [devices[number] for number in left]


def test_a_job_gets_no_device_of_the_retrieval_server(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path))
    monkeypatch.setenv("TIR_SERVER_GPUS", "GPU-a1,2")
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert run(2, show).communicate()[0] == "1,3\n"
    assert "fewer GPUs than a job asks for" in run(3, show).communicate()[1]


def test_more_gpus_than_the_machine_has_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"resources: \[gpu=2\]"):
        claim(3, ["0", "1"], tmp_path)


def test_a_machine_without_driver_is_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InfrastructureFault, match="nvidia-smi"):
        visible_devices()
