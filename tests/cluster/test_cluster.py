"""The whole graph as Slurm jobs in Apptainer images, and recovery from lost jobs, nodes, servers and memory.

TIR_CLUSTER=DIR is the directory of the cluster's state. The tests start a cluster there and leave it running (stop it
with `slurm.sh down DIR`). Images are built once and kept in DIR. Needs root on Debian 12; skipped without TIR_CLUSTER.
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

from tir.common.records import file_digest

ROOT = Path(__file__).resolve().parents[2]
STATE = os.environ.get("TIR_CLUSTER")
pytestmark = pytest.mark.skipif(
    not STATE, reason="TIR_CLUSTER=DIR brings up a Slurm with virtual nodes there (root, Debian 12)"
)
NODE_OF = {
    "index": "h200",
    "retrieval-server": "h200",
    "sft": "h100",
    "rl": "h100",
    "traces": "a10g",
    "judge": "h100",
}
GRES_OF = {
    "index": "gpu:h200:1",
    "retrieval-server": "gpu:h200:1",
    "sft": "gpu:h100:8",
    "rl": "gpu:h100:8",
    "traces": "gpu:a10g:1",
    "judge": "gpu:h100:4",
}
TARGET = "results/table5.csv"
JUDGE = "judge/sft/gsm8k.jsonl"  # Table 5 needs no judge
LIMIT_S = 2400


class Cluster:
    """A virtual cluster and a copy of the repository that runs on it."""

    def __init__(self, state: Path):
        self.work, self.state = state / "work", state
        self.environment = {
            **os.environ,
            "PATH": f"{state}/apptainer/bin{os.pathsep}{os.environ['PATH']}",
            "SLURM_CONF": f"{state}/slurm/slurm.conf",
        }

    def command(self, *arguments: str) -> list[str]:
        return [
            str(ROOT / ".venv/workflow/bin/snakemake"),
            "--profile",
            "slurm",
            "--workflow-profile",
            "tests/cluster/overlay",
            *arguments,
        ]

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        done = self.run(self.command(*arguments), cwd=self.work, timeout=LIMIT_S)
        text = done.stdout + done.stderr
        assert not check or done.returncode == 0, text[-6000:]
        return text

    def run(self, command, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.work,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def jobs(self) -> list[dict[str, str]]:
        """Slurm's records of the jobs of the last hour."""
        text = self.run(["scontrol", "-o", "show", "jobs"]).stdout
        return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in text.splitlines() if "JobId=" in line]

    def wait_for(self, rule: str, *, after: int = 0, number: int = 1, timeout_s: float = 300) -> list[dict[str, str]]:
        """The first running jobs of a rule that were submitted after job number `after`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [
                job
                for job in self.jobs()
                if rule_of(job) == rule and job["JobState"] == "RUNNING" and int(job["JobId"]) > after
            ]
            if len(found) >= number:
                return found[:number]
            time.sleep(0.5)
        raise AssertionError(f"fewer than {number} running jobs of {rule} within {timeout_s} s")

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of jobs that run in this copy or below it, and whose command line contains one of the words."""
        matches = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            line = " ".join(process.info["cmdline"] or [])
            if (
                Path(process.info["cwd"] or "/").is_relative_to(self.work)
                and any(word in line for word in words)
                and "snakemake" not in line
            ):
                matches.append(process)
        return matches

    def wait_until(self, condition, run: subprocess.Popen, failure: str, timeout_s: float = 300) -> None:
        """Wait until a condition holds; fail with `failure` if the run ends before, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline and run.poll() is None, failure
            time.sleep(0.1)

    def last_job(self) -> int:
        return max((int(job["JobId"]) for job in self.jobs()), default=0)


def line(process: psutil.Process) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def rule_of(job: dict[str, str]) -> str:
    """The rule of a job; for a run's retrieval server, which has no rule, the job's name."""
    comment = job.get("Comment", job["JobName"]).removeprefix("rule_")
    return comment.partition("_wildcards")[0]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    state = Path(STATE).resolve()
    state.mkdir(parents=True, exist_ok=True)
    for script, place in (("apptainer.sh", "apptainer"), ("slurm.sh up", "slurm")):
        subprocess.run(f"{ROOT}/tests/cluster/{script} {state / place}", shell=True, check=True, timeout=900)
    cluster = Cluster(state)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, files)):
        source, target = ROOT / name, cluster.work / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                shutil.copy2(source, target)
    if not (cluster.work / "slurm").exists():
        (cluster.work / "slurm").symlink_to("profiles/slurm")
    (cluster.work / ".cluster").mkdir(exist_ok=True)
    site = subprocess.run(["tests/cluster/site.sh"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (cluster.work / ".cluster/site.yaml").write_text(site)
    cluster.snakemake("--unlock")  # remove the lock that a killed test run leaves
    return cluster


@pytest.fixture(scope="module")
def finished(cluster) -> Cluster:
    """The cluster, after the graph has run in jobs without network, like compute nodes without internet."""
    cluster.environment["TIR_NO_NETWORK"] = "1"
    cluster.before = cluster.last_job()
    # Each job has a retrieval server of its own: without network it could not reach the run's server.
    cluster.output = cluster.snakemake("--config", "site={retrieval_server: {runs_on: none}}", "--", TARGET, JUDGE)
    del cluster.environment["TIR_NO_NETWORK"]
    return cluster


def trajectories(cluster: Cluster) -> dict[str, list]:
    """Segments of all traces by benchmark. Seeds follow from the items, so they are equal in every run of a job."""
    return {
        path.name: [(row["id"], row["segments"]) for row in map(json.loads, path.read_text().splitlines())]
        for path in sorted(cluster.work.glob("traces/sft/*.jsonl"))
    }


def test_the_images_of_the_graph_are_built(cluster):
    """Stands first, so that the time of the build is not part of another test's time limit."""
    names = ("base", "sft", "rl", "analysis")
    cluster.snakemake(*(f"images/{name}.sif" for name in names))
    assert all((cluster.work / f"images/{name}.json").is_file() for name in names)


def test_the_run_writes_table_5(finished):
    rows = list(csv.reader((finished.work / TARGET).open()))
    assert len(rows) == 4 and all(len(row) == len(rows[0]) for row in rows)


def test_every_job_ran_on_the_gpu_type_of_its_stage(finished):
    """Results of an earlier session stay, so this run may have needed fewer stages."""
    jobs = [job for job in finished.jobs() if int(job["JobId"]) > finished.before and job["JobState"] == "COMPLETED"]
    ran = set(re.findall(r"^rule (\w+):", finished.output, re.M))
    assert ran or "Nothing to be done" in finished.output
    assert {rule_of(job) for job in jobs} >= ran & set(NODE_OF)
    for job in jobs:
        rule = rule_of(job)
        assert job["NodeList"] == NODE_OF.get(rule, "cpu"), (rule, job["NodeList"])
        assert GRES_OF.get(rule, "") in job.get("TresPerNode", ""), (rule, job.get("TresPerNode"))


def test_jobs_had_no_network(finished):
    """With the arguments of these jobs, nothing but the loopback interface is in the container."""
    arguments = yaml.safe_load((ROOT / "tests/cluster/overlay/config.yaml").read_text())["apptainer-args"]
    show = "import socket; print([name for _, name in socket.if_nameindex()])"
    command = ["bash", "-c", f"apptainer -s exec {arguments} images/analysis.sif python -c '{show}'"]
    environment = {**finished.environment, "TIR_NO_NETWORK": "1"}
    done = subprocess.run(command, cwd=finished.work, env=environment, text=True, capture_output=True)
    assert done.stdout.strip() == "['lo']", done.stderr


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.snakemake(TARGET)


def test_packages_in_the_home_directory_and_secrets_do_not_reach_the_container(finished, tmp_path):
    site = tmp_path / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "numpy.py").write_text("raise ImportError('poisoned')\n")
    poisoned = {**finished.environment, "HOME": str(tmp_path), "PYTHONPATH": str(site), "SECRET": "x"}
    overlay = yaml.safe_load((ROOT / "tests/cluster/overlay/config.yaml").read_text())
    flags = overlay["apptainer-args"].partition("$")[0].split()
    done = subprocess.run(
        [
            "apptainer",
            "exec",
            *flags,
            "--home",
            str(finished.work),
            "images/analysis.sif",
            "sh",
            "-c",
            "python -c 'import numpy' && env",
        ],
        cwd=finished.work,
        env=poisoned,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout and "PYTHONNOUSERSITE=1" in done.stdout


def test_lost_jobs_are_repeated_with_the_same_result(finished):
    """One job is killed and one cancelled; then the node of the second attempts goes down."""
    expected, before = trajectories(finished), finished.last_job()
    run = finished.start("--forcerun", "traces", "--", "traces/sft/gsm8k.jsonl", "traces/sft/hotpotqa.jsonl")
    killed, cancelled = finished.wait_for("traces", after=before, number=2)
    time.sleep(4)
    finished.run(["scancel", "--signal=KILL", killed["JobId"]])
    finished.run(["scancel", cancelled["JobId"]])
    finished.wait_for("traces", after=max(int(killed["JobId"]), int(cancelled["JobId"])))
    finished.run(["scontrol", "update", "nodename=a10g", "state=down", "reason=test"])
    time.sleep(2)
    finished.run(["scontrol", "update", "nodename=a10g", "state=resume"])
    text, _ = run.communicate(timeout=900)
    assert run.returncode == 0, text[-4000:]
    assert trajectories(finished) == expected


def test_an_interrupted_snakemake_cancels_its_jobs_and_a_second_run_finishes(finished):
    expected, before = trajectories(finished), finished.last_job()
    arguments = ("--forcerun", "traces", "--", "traces/sft/gsm8k.jsonl")
    run = finished.start(*arguments)
    finished.wait_for("traces", after=before)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=300)
    assert run.returncode != 0
    deadline = time.monotonic() + 60
    while any(job["JobState"] in ("RUNNING", "PENDING") for job in finished.jobs()):
        assert time.monotonic() < deadline, "jobs of the interrupted run are still in the queue"
        time.sleep(1)
    finished.snakemake("--rerun-incomplete", "traces/sft/gsm8k.jsonl")
    assert trajectories(finished) == expected


def test_a_stage_saves_before_its_time_limit_and_slurm_ends_one_that_hangs(finished):
    """Both jobs have three minutes. The training of both is suspended, so neither ends before its limit; that of the
    pilot goes on after the warning, and the launcher of the main run is suspended too, so it gets no warning."""
    logs = {name: finished.work / f"logs/sft/{name}.log" for name in ("medium", "full")}
    weights, before = finished.work / "runs/sft/full/models/sft-epoch1/model.safetensors", finished.last_job()
    expected = file_digest(weights)
    for log in logs.values():
        log.unlink(missing_ok=True)

    def contains(name: str, text: str) -> bool:
        return logs[name].exists() and text in logs[name].read_text()

    def suspend(name: str, *modules: str) -> list[psutil.Process]:
        found = [each for each in finished.processes(*modules) if f"runs/sft/{name}" in line(each)]
        for process in found:
            process.suspend()
        return found

    run = finished.start(
        "--config",
        "sft_pilots={medium: {max_rows: 800, epochs: 2, logging_steps: 5}}",
        "--set-resources",
        "sft:runtime=3 if attempt == 1 else 30",
        "--set-threads",
        "sft=16",  # so that both fit on the node
        "--forcerun",
        "sft",
        "--",
        "runs/sft/medium/log.jsonl",
        "runs/sft/full/log.jsonl",
    )
    finished.wait_until(lambda: contains("medium", "step "), run, "the pilot's training did not start")
    waiting = suspend("medium", "tir.sft.entry")
    finished.wait_until(lambda: contains("full", "step "), run, "training did not start")
    suspended = suspend("full", "scripts.train_sft", "tir.sft.entry")
    finished.wait_until(lambda: contains("medium", "saving a checkpoint"), run, "there was no warning")
    for process in waiting:
        process.resume()
    finished.wait_until(lambda: contains("medium", "interrupted"), run, "the pilot did not end")
    seen = logs["medium"].read_text()
    text, _ = run.communicate(timeout=900)
    assert "interrupted (the job's time limit is near)" in seen
    assert run.returncode == 0, text[-4000:]
    assert "resuming from step" in logs["medium"].read_text()
    assert suspended and not any(process.is_running() for process in suspended)
    states = {job["JobState"] for job in finished.jobs() if rule_of(job) == "sft" and int(job["JobId"]) > before}
    assert "TIMEOUT" in states
    assert file_digest(weights) == expected


def running(cluster: Cluster, module: str) -> list[psutil.Process]:
    """The Python processes of this copy that run a module, without the commands that submit or contain it."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if (process.info["cmdline"] or [])[1:3] == ["-m", module] and process.info["cwd"] == str(cluster.work)
    ]


def wait_for_the_end_of_servers(cluster: Cluster, after: int) -> list[dict[str, str]]:
    """The retrieval servers submitted after job number `after`; fails if one is not gone within a minute."""
    deadline = time.monotonic() + 60
    while True:
        jobs = [job for job in cluster.jobs() if rule_of(job) == "retrieval-server" and int(job["JobId"]) > after]
        if not any(job["JobState"] in ("RUNNING", "PENDING", "COMPLETING") for job in jobs):
            return jobs
        assert time.monotonic() < deadline, f"a retrieval server is still there: {jobs}"
        time.sleep(1)


SMOKE = ("--forcerun", "retrieval_smoke", "--", "results/retrieval_smoke.csv")


def test_a_run_s_retrieval_server_that_is_killed_is_restarted(cluster):
    """It is killed while the job waits for it, since the few searches could be over before a later kill."""
    cluster.snakemake("index/manifest.json")
    before = cluster.last_job()
    wait_for_the_end_of_servers(cluster, 0)  # of earlier runs, which this test would kill instead
    run = cluster.start(*SMOKE)
    cluster.wait_until(lambda: running(cluster, "tir.retrieval.server"), run, "the server did not start")
    for server in running(cluster, "tir.retrieval.server"):
        server.kill()
    text, _ = run.communicate(timeout=900)
    assert run.returncode == 0, text[-4000:]
    assert "restart 1 of 1" in text and text.count("a job searches") == 2
    log = (cluster.work / "logs/retrieval_smoke.log").read_text()
    assert "the run's server, http" in log and "beside this job" not in log
    jobs = wait_for_the_end_of_servers(cluster, before)
    assert len(jobs) == 2 and all(GRES_OF["retrieval-server"] in job["TresPerNode"] for job in jobs)


def test_a_second_run_uses_neither_the_server_of_the_first_nor_waits_and_a_killed_run_gives_it_back(cluster):
    """The first run has the only GPU for a server."""
    cluster.snakemake("index/manifest.json")
    second = Cluster(cluster.state)
    second.work = cluster.state / "second"
    shutil.rmtree(second.work, ignore_errors=True)
    left_out = shutil.ignore_patterns(".snakemake", "logs", "results", "traces", "runs")
    shutil.copytree(cluster.work, second.work, symlinks=True, ignore=left_out, copy_function=os.link)
    before = cluster.last_job()
    wait_for_the_end_of_servers(cluster, 0)  # of earlier runs
    first_run = cluster.start(*SMOKE)
    cluster.wait_until(lambda: running(cluster, "tir.retrieval.server"), first_run, "the server did not start")
    waiting = running(cluster, "scripts.retrieval_smoke")
    for process in waiting:
        process.suspend()  # so that the first run goes on
    text = second.snakemake(*SMOKE[2:])
    assert waiting and all(process.is_running() for process in waiting)
    log = (second.work / "logs/retrieval_smoke.log").read_text()
    assert "no place for it within 20 s" in text and "no place for it" in log and "a server beside this job" in log
    first_run.kill()  # as kill -9: Snakemake itself cancels nothing
    jobs = wait_for_the_end_of_servers(cluster, before)
    assert len(jobs) == 2 and {job["JobState"] for job in jobs} == {"CANCELLED"}
    for job in cluster.jobs():
        if rule_of(job) == "retrieval_smoke" and job["JobState"] == "RUNNING":
            cluster.run(["scancel", job["JobId"]])
    cluster.snakemake("--unlock")


def test_a_job_out_of_memory_is_repeated_with_more(finished):
    expected, before = trajectories(finished), finished.last_job()
    finished.snakemake(
        "--forcerun",
        "traces",
        "--set-resources",
        "traces:mem_mb=200 if attempt == 1 else 64000",
        "--",
        "traces/sft/gsm8k.jsonl",
    )
    first, second = sorted(
        (job for job in finished.jobs() if int(job["JobId"]) > before), key=lambda job: int(job["JobId"])
    )
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert "exceeded memory limit" in Path(first["StdOut"]).read_text()
    assert trajectories(finished) == expected
