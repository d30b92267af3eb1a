"""The whole graph through real Slurm jobs in real images, and what happens when its parts fail.

TIR_CLUSTER=DIR names a directory for the cluster's state; it is brought up there and left running (slurm.sh down DIR ends
it). Images are built once and kept in DIR. Needs root on Debian 12; without TIR_CLUSTER everything here is skipped.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tir.records import file_digest

ROOT = Path(__file__).resolve().parents[2]
STATE = os.environ.get("TIR_CLUSTER")
pytestmark = pytest.mark.skipif(not STATE, reason="TIR_CLUSTER=DIR brings up a Slurm with virtual nodes there (root, Debian 12)")
NODE_OF = {"index": "h200", "sft": "h100", "rl": "h100", "traces": "a10g", "judge": "h100"}
GRES_OF = {"index": "gpu:h200:1", "sft": "gpu:h100:8", "rl": "gpu:h100:8", "traces": "gpu:a10g:1",
           "judge": "gpu:h100:4"}
TARGET = "results/table5.csv"
LIMIT_S = 2400


class Cluster:
    """A virtual cluster and a clone that runs on it."""

    def __init__(self, state: Path):
        self.work, self.state = state / "work", state
        self.environment = {**os.environ, "PATH": f"{state}/apptainer/bin{os.pathsep}{os.environ['PATH']}",
                            "SLURM_CONF": f"{state}/slurm/slurm.conf"}

    def command(self, *arguments: str) -> list[str]:
        return [str(ROOT / ".venv/workflow/bin/snakemake"), "--profile", "slurm", "--workflow-profile", "tests/cluster/overlay",
                *arguments]

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        done = self.run(self.command(*arguments), cwd=self.work, timeout=LIMIT_S)
        text = done.stdout + done.stderr
        assert not check or done.returncode == 0, text[-6000:]
        return text

    def run(self, command, **options) -> subprocess.CompletedProcess:
        return subprocess.run([str(part) for part in command], env=self.environment, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, **options)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*arguments), cwd=self.work, env=self.environment, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def jobs(self) -> list[dict[str, str]]:
        """Slurm's own records of the jobs of the last hour."""
        text = self.run(["scontrol", "-o", "show", "jobs"]).stdout
        return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in text.splitlines() if "JobId=" in line]

    def wait_for(self, rule: str, *, after: int = 0, timeout_s: float = 300) -> dict[str, str]:
        """The first running job of a rule that was submitted after job number `after`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for job in self.jobs():
                if rule_of(job) == rule and job["JobState"] == "RUNNING" and int(job["JobId"]) > after:
                    return job
            time.sleep(0.5)
        raise AssertionError(f"no running job of {rule} within {timeout_s} s")

    def states(self, job: dict[str, str]) -> set[str]:
        """What Slurm says of a job now; a requeued one has had several."""
        return {found["JobState"] for found in self.jobs() if found["JobId"] == job["JobId"]}

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of jobs in this clone whose command line has one of these words."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            line = " ".join(process.info["cmdline"] or [])
            if process.info["cwd"] == str(self.work) and any(word in line for word in words) and "snakemake" not in line:
                found.append(process)
        return found

    def wait_until(self, condition, run: subprocess.Popen, otherwise: str, timeout_s: float = 300) -> None:
        """Until a condition holds while a run goes on."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline and run.poll() is None, otherwise
            time.sleep(0.1)

    def last(self) -> int:
        return max((int(job["JobId"]) for job in self.jobs()), default=0)


def rule_of(job: dict[str, str]) -> str:
    comment = job.get("Comment", "").removeprefix("rule_")
    return comment.partition("_wildcards")[0]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    state = Path(STATE).resolve()
    state.mkdir(parents=True, exist_ok=True)
    for script, place in (("apptainer.sh", "apptainer"), ("slurm.sh up", "slurm")):
        subprocess.run(f"{ROOT}/tests/cluster/{script} {state / place}", shell=True, check=True, timeout=900)
    found = Cluster(state)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, files)):
        source, target = ROOT / name, found.work / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                shutil.copy2(source, target)
    if not (found.work / "slurm").exists():
        (found.work / "slurm").symlink_to("profiles/slurm")
    (found.work / ".cluster").mkdir(exist_ok=True)
    site = subprocess.run(["tests/cluster/site.sh"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (found.work / ".cluster/site.yaml").write_text(site)
    found.snakemake("--unlock")  # a run of these tests that was killed leaves its lock
    return found


@pytest.fixture(scope="module")
def finished(cluster) -> Cluster:
    """The cluster, after the graph has run."""
    cluster.output = cluster.snakemake(TARGET)
    return cluster


def trajectories(cluster: Cluster) -> dict[str, list]:
    """What the model said and the tools answered, greedily decoded: the same for every run of a job."""
    return {path.name: [(row["id"], row["segments"]) for row in map(json.loads, path.read_text().splitlines())]
            for path in sorted(cluster.work.glob("traces/sft/*.jsonl"))}


def test_the_graph_reaches_its_table(finished):
    rows = list(csv.reader((finished.work / TARGET).open()))
    assert len(rows) == 4 and all(len(row) == len(rows[0]) for row in rows)


def test_every_job_ran_on_the_gpu_its_stage_states(finished):
    """From Slurm's records, which it keeps for an hour: also those of an earlier session of this directory."""
    jobs = [job for job in finished.jobs() if job["WorkDir"] == str(finished.work) and job["JobState"] == "COMPLETED"]
    if "Nothing to be done" not in finished.output:
        assert {rule_of(job) for job in jobs} >= set(NODE_OF)
    for job in jobs:
        rule = rule_of(job)
        assert job["NodeList"] == NODE_OF.get(rule, "cpu"), (rule, job["NodeList"])
        assert GRES_OF.get(rule, "") in job.get("TresPerNode", ""), (rule, job.get("TresPerNode"))


def test_nothing_is_left_to_do(finished):
    assert "Nothing to be done" in finished.snakemake(TARGET)


def test_a_broken_package_in_the_home_directory_does_not_leak_in(finished, tmp_path):
    site = tmp_path / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "numpy.py").write_text("raise ImportError('poisoned')\n")
    poisoned = {**finished.environment, "HOME": str(tmp_path), "PYTHONPATH": str(site), "SECRET": "x"}
    overlay = yaml.safe_load((ROOT / "tests/cluster/overlay/config.yaml").read_text())
    flags = overlay["apptainer-args"].partition("$")[0].split()
    done = subprocess.run(["apptainer", "exec", *flags, "--home", str(finished.work), "images/analysis.sif", "sh", "-c",
                           "python -c 'import numpy' && env"], cwd=finished.work, env=poisoned, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout and "PYTHONNOUSERSITE=1" in done.stdout


@pytest.mark.parametrize("fault", ["job killed", "node down", "scancel"])
def test_a_lost_job_is_done_again_with_the_same_result(finished, fault):
    expected, before = trajectories(finished), finished.last()
    run = finished.start("--forcerun", "traces", "--", "traces/sft/gsm8k.jsonl")
    job = finished.wait_for("traces", after=before)
    time.sleep(4)
    match fault:
        case "job killed":
            finished.run(["scancel", "--signal=KILL", job["JobId"]])
        case "scancel":
            finished.run(["scancel", job["JobId"]])
        case "node down":
            finished.run(["scontrol", "update", "nodename=a10g", "state=down", "reason=test"])
            time.sleep(2)
            finished.run(["scontrol", "update", "nodename=a10g", "state=resume"])
    text, _ = run.communicate(timeout=900)
    assert run.returncode == 0, text[-4000:]
    assert trajectories(finished) == expected


def test_a_cancelled_controller_leaves_no_job_and_a_restart_finishes(finished):
    expected, before = trajectories(finished), finished.last()
    arguments = ("--forcerun", "traces", "--", "traces/sft/gsm8k.jsonl")
    run = finished.start(*arguments)
    finished.wait_for("traces", after=before)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=300)
    assert run.returncode != 0
    deadline = time.monotonic() + 60
    while any(job["JobState"] in ("RUNNING", "PENDING") for job in finished.jobs()):
        assert time.monotonic() < deadline, "a cancelled run left its jobs behind"
        time.sleep(1)
    finished.snakemake("--rerun-incomplete", "traces/sft/gsm8k.jsonl")
    assert trajectories(finished) == expected


def test_before_a_time_limit_a_stage_saves_and_the_next_attempt_continues(finished):
    """A pilot that needs more than its two minutes; more epochs than configured, so that a fast machine needs them too."""
    log, seen = finished.work / "logs/sft/medium.log", ""
    run = finished.start("--config", "sft_pilots={medium: {max_rows: 800, epochs: 6, logging_steps: 10}}", "--set-resources",
                         "sft_medium:runtime=2 if attempt == 1 else 30", "--forcerun", "sft_medium", "--",
                         "runs/sft/medium/log.jsonl")
    while run.poll() is None and "interrupted" not in seen:
        seen = log.read_text() if log.exists() else seen
        time.sleep(0.1)
    text, _ = run.communicate(timeout=900)
    assert "interrupted (the job's time limit is near)" in seen and "step" in seen
    assert run.returncode == 0, text[-4000:]
    assert "resuming from step" in log.read_text()


def test_a_job_that_hangs_ends_at_its_limit_and_the_next_attempt_continues(finished):
    """Stopped processes hear no warning: Slurm itself ends the job, after a real minute."""
    log, before = finished.work / "logs/sft.log", finished.last()
    weights = finished.work / "models/sft-epoch1/model.safetensors"
    expected = file_digest(weights)
    log.unlink()
    run = finished.start("--forcerun", "sft", "--until", "sft", "--set-resources", "sft:runtime=1 if attempt == 1 else 30",
                         "--", "models/sft-epoch1/manifest.json")
    job = finished.wait_for("sft", after=before)
    finished.wait_until(lambda: log.exists() and "step " in log.read_text(), run, "training did not start")
    stopped = finished.processes("scripts.train_sft", "llamafactory")
    for process in stopped:
        process.suspend()
    text, _ = run.communicate(timeout=900)
    assert stopped and not any(process.is_running() for process in stopped)
    assert finished.states(job) & {"TIMEOUT"}
    assert run.returncode == 0, text[-4000:]
    assert file_digest(weights) == expected


def test_a_dead_retrieval_server_is_started_again_within_its_job(finished):
    expected, log = trajectories(finished), finished.work / "traces/sft/hotpotqa.jsonl.retrieval.log"
    log.unlink(missing_ok=True)
    run = finished.start("--forcerun", "traces", "--", "traces/sft/hotpotqa.jsonl")
    finished.wait_until(lambda: log.exists() and "ready after" in log.read_text(), run, "the server did not start")
    killed = time.monotonic()
    for server in finished.processes("tir.retrieval.server"):
        server.kill()
    finished.wait_until(lambda: log.read_text().count("ready after") == 2, run, "the server did not come back")
    assert time.monotonic() - killed < 60
    text, _ = run.communicate(timeout=900)
    assert run.returncode == 0, text[-4000:]
    assert "restart 1 of 3" in (finished.work / "logs/traces/sft/hotpotqa.log").read_text()
    assert trajectories(finished) == expected


def test_a_retrieval_server_that_keeps_dying_ends_the_job_with_its_name(finished):
    expected, log = trajectories(finished), finished.work / "logs/traces/sft/hotpotqa.log"
    run = finished.start("--forcerun", "traces", "--retries", "0", "--", "traces/sft/hotpotqa.jsonl")
    while run.poll() is None:
        for server in finished.processes("tir.retrieval.server"):
            server.kill()
        time.sleep(0.2)
    assert run.returncode != 0
    assert "SearchUnavailable" in log.read_text() and "Traceback" not in log.read_text()
    finished.snakemake("traces/sft/hotpotqa.jsonl")
    assert trajectories(finished) == expected


def test_a_job_out_of_memory_says_so_and_is_tried_again_with_more(finished):
    expected, before = trajectories(finished), finished.last()
    finished.snakemake("--forcerun", "traces", "--set-resources", "traces:mem_mb=200 if attempt == 1 else 64000", "--",
                       "traces/sft/gsm8k.jsonl")
    first, second = sorted((job for job in finished.jobs() if int(job["JobId"]) > before), key=lambda job: int(job["JobId"]))
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert "exceeded memory limit" in Path(first["StdOut"]).read_text()
    assert trajectories(finished) == expected
