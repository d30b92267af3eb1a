"""The run's retrieval server: submitted at the first search, restarted once, ended with the run (a made-up Slurm)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import alive, wait_until
from support.tiny_retrieval import bm25_directory, corpus, search, server_pids, url_of  # noqa: F401  (fixtures)

from tir.retrieval import folder as folder_module
from tir.retrieval import standing
from tir.retrieval.folder import ALIVE, Address, Folder
from tir.retrieval.server_jobs import SlurmJob
from tir.retrieval.sidecar import retrieval
from tir.retrieval.standing import Manager, script


class FakeJob:
    """A server whose state the test sets."""

    def __init__(self):
        self.current, self.starts, self.cancelled, self.fails = "queued", 0, 0, False

    def start(self) -> str:
        self.starts += 1
        if self.fails:
            raise subprocess.SubprocessError("sbatch: invalid partition")
        self.current = "queued"
        return "job 1"

    def state(self) -> str:
        return self.current

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path / "run")
    folder.create()
    return folder


def manager(folder: Folder, job: FakeJob, queue_s: float = 1000, start_s: float = 1000) -> Manager:
    return Manager(folder, job, queue_s, start_s, poll_s=0)


def test_the_folder_is_private(folder):
    folder.publish(Address("http://h:1", "secret"))
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.path / "server.json").stat().st_mode & 0o777 == 0o600


def test_nothing_is_submitted_before_a_job_searches_and_then_one_server(folder):
    job = FakeJob()
    keeper = manager(folder, job)
    keeper.step()
    assert job.starts == 0 and (folder.path / ALIVE).read_text() == "1\n"
    for _ in range(3):
        folder.ask()
        keeper.step()
    assert job.starts == 1
    keeper.end()
    assert job.cancelled == 1 and not folder.exists()


def test_a_server_that_ends_by_itself_is_started_by_the_next_search_and_counts_as_no_death(folder):
    job = FakeJob()
    keeper = manager(folder, job)
    for number in range(1, 5):
        folder.ask()
        keeper.step()
        assert job.starts == number
        job.current = "running"
        folder.publish(Address(f"http://h:{number}"))
        keeper.step()
        folder.withdraw()
        job.current = "gone"
        keeper.step()
        keeper.step()
        assert job.starts == number and folder.refusal() is None


@pytest.mark.parametrize("fault", ["killed", "does not start", "not ready in time", "sbatch fails"])
def test_a_server_that_dies_is_restarted_once(folder, fault):
    job = FakeJob()
    keeper = manager(folder, job, start_s=-1 if fault == "not ready in time" else 1000)
    job.fails = fault == "sbatch fails"
    for number in (1, 2):
        assert folder.refusal() is None
        folder.ask()
        keeper.step()
        assert job.starts == number
        if fault == "killed":
            job.current = "running"
            folder.publish(Address("http://h:1"))
            keeper.step()
        job.current = "running" if fault == "not ready in time" else "gone"
        keeper.step()
        keeper.step()
        assert folder.address() is None  # the address of a dead server is removed
    assert "after 1 restart" in folder.refusal()
    folder.ask()
    keeper.step()
    assert job.starts == 2


def test_jobs_do_not_wait_for_a_server_that_is_not_granted_but_use_it_once_it_runs(folder):
    job = FakeJob()
    keeper = manager(folder, job, queue_s=-1)
    folder.ask()
    keeper.step()
    keeper.step()
    assert "no place for it" in folder.refusal() and not job.cancelled
    job.current = "running"
    keeper.step()
    assert folder.refusal() is None


def test_an_unknown_state_is_no_death(folder):
    job = FakeJob()
    keeper = manager(folder, job)
    folder.ask()
    keeper.step()
    job.current = "unknown"
    for _ in range(3):
        folder.ask()
        keeper.step()
    assert job.starts == 1 and folder.refusal() is None


def test_folders_of_killed_runs_are_removed_and_those_of_living_ones_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "BEAT_LOST_S", 0.2)
    monkeypatch.setattr(standing, "BEAT_EVERY_S", 0.0)
    host = socket.gethostname()
    names = {
        "killed": f"{host}-{2**22 + 1}-ab12",  # no process has this number
        "elsewhere": "node-7-1-ab12",
        "suspended": f"{host}-{os.getpid()}-ab12",  # its number stays the same, but its process exists
        "living": "node-7-2-ab12",
    }
    folders = {name: Folder(tmp_path / unique) for name, unique in {**names, "own": f"{host}-1-cd34"}.items()}
    for folder in folders.values():
        folder.create()
        folder.beat(1)
    (tmp_path / "no_run").mkdir()
    keeper = manager(folders.pop("own"), FakeJob())
    for number in range(2, 30):
        folders["living"].beat(number)
        keeper.step()
        time.sleep(0.02)
    assert [name for name, folder in folders.items() if folder.exists()] == ["suspended", "living"]
    assert (tmp_path / "no_run").exists() and keeper._folder.exists()


# --- as a program, with a made-up Slurm ---------------------------------------------------------------------------

SLURM = {
    # A job is a process group; its log is where --output says.
    "sbatch": """
import os, re, subprocess, sys
options = sys.argv[1:]
open("options", "a").write(repr(options) + repr(sorted(k for k in os.environ if k.startswith("SLURM_"))) + "\\n")
name = str(len(open("options").readlines()))
output = next(o for o in options if o.startswith("--output=")).split("=")[1].replace("%j", name)
text = sys.stdin.read()
open("job" + name, "w").write(text)
job = subprocess.Popen(["bash", "job" + name], stdin=subprocess.DEVNULL, stdout=open(output, "w"),
                       stderr=subprocess.STDOUT, start_new_session=True)
open("pid" + name, "w").write(str(job.pid))
print(name + ";cluster")
""",
    "squeue": """
import sys
name = next(o for o in sys.argv if o.startswith("--jobs=")).split("=")[1]
try:
    state = open(f"/proc/{open('pid' + name).read()}/stat").read().rpartition(")")[2].split()[0]
except OSError:
    sys.exit("slurm_load_jobs error: Invalid job id specified")
print("RUNNING" if state != "Z" else "")
""",
    "scancel": """
import os, signal, sys
os.killpg(int(open("pid" + sys.argv[1]).read()), signal.SIGTERM)
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = """
import sys, time
from tir.retrieval import standing
standing.start(sys.argv[1], __import__("json").loads(sys.argv[2]))
time.sleep(600)
"""


def run_of(index: Path, folder: str, runs_on: str, host: str = "127.0.0.1") -> subprocess.Popen:
    """A process in the place of Snakemake, which starts the run's server."""
    if not Path("index").exists():
        Path("index").symlink_to(index)
    settings = {
        "runs_on": runs_on,
        "script": script(sys.executable, folder, 600, host),
        "sbatch": ["--partition=gpu", "--gres=gpu:h200:1"],
        "queue_s": 60,
        "start_s": 60,
    }
    return subprocess.Popen([sys.executable, "-c", RUN, folder, json.dumps(settings)])


@pytest.mark.parametrize("runs_on", ["slurm", "local"])
def test_a_killed_server_is_restarted_and_a_killed_run_ends_it(slurm, bm25_directory, runs_on, capfd):
    run = run_of(bm25_directory, "run", runs_on)
    assert wait_until(Folder("run").exists, 20)
    with retrieval(bm25_directory, run="run", log_path="own.log") as endpoint:
        assert search(endpoint) == 2
        [first] = server_pids(url_of(endpoint))
        os.kill(first, signal.SIGKILL)
        assert search(endpoint, "queen") == 2
        [second] = server_pids(url_of(endpoint))
        token = Folder("run").address().token
        run.kill()  # as `kill -9` of Snakemake
        run.wait()
        assert wait_until(lambda: not alive(second), 30) and wait_until(lambda: not Folder("run").exists(), 10)
        assert search(endpoint, "castle") == 2  # a job that still runs starts its own
    assert second != first and Path("own.log").exists()
    said = capfd.readouterr().err
    assert "died; restart 1 of 1" in said and said.count("a job searches") == 2 and "ended with the run" in said
    written = "".join(path.read_text() for path in slurm.glob("**/*") if path.is_file() and "bin" not in path.parts)
    assert token not in said + written
    if runs_on == "slurm":
        options = Path("options").read_text().splitlines()
        assert len(options) == 2 and all("'--gres=gpu:h200:1'][]" in line for line in options)


def test_two_runs_side_by_side_have_each_its_own_server(slurm, bm25_directory):
    runs = {name: run_of(bm25_directory, name, "slurm") for name in ("one", "two")}
    urls = set()
    for name in runs:
        assert wait_until(Folder(name).exists, 20)
        with retrieval(bm25_directory, run=name, log_path="own.log") as endpoint:
            assert search(endpoint) == 2
            assert url_of(endpoint) == Folder(name).address().url
            urls.add(url_of(endpoint))
    runs["one"].kill()
    assert wait_until(lambda: not Folder("one").exists(), 30)
    with retrieval(bm25_directory, run="two", log_path="own.log") as endpoint:
        assert search(endpoint, "queen") == 2
    assert len(urls) == 2 and not Path("own.log").exists()
    runs["two"].kill()
    assert wait_until(lambda: not Folder("two").exists(), 30)
    for run in runs.values():
        run.wait()


def test_slurm_that_does_not_answer_says_nothing_about_a_job(slurm, monkeypatch):
    (slurm / "bin/squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    assert SlurmJob("", []).state() == "unknown"
    (slurm / "bin/squeue").write_text("#!/bin/sh\necho 'error: Invalid job id specified' >&2; exit 1\n")
    assert SlurmJob("", []).state() == "gone"
    (slurm / "bin/squeue").write_text("#!/bin/sh\necho PENDING\n")
    assert SlurmJob("", []).state() == "queued"


def test_the_script_runs_the_server_in_its_image():
    inside = 'apptainer exec --home "$PWD" --nv ${X:+--env X=$X} images/rl.sif'
    text = script("python3", "a run", 900, "0.0.0.0", inside=inside, gpus="1,2")
    lines = text.splitlines()
    assert lines[1] == "export CUDA_VISIBLE_DEVICES=1,2" and lines[2].startswith(f"exec {inside} python3 -m")
    words = shlex.split(lines[2])
    assert words[words.index("--endpoint-file") + 1] == "a run/server.json" and "--new-token" in words
