"""The retrieval server of a job: found or started at the first search, replaced if lost, ended with the job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
from support.paths import ROOT
from support.processes import alive, wait_until
from support.tiny_retrieval import (  # noqa: F401  (fixtures)
    FakeIndex,
    bm25_directory,
    corpus,
    search,
    server_pids,
    serving,
    url_of,
)

from tir.common.errors import DataError, SearchUnavailable, WrongIndex
from tir.retrieval import folder as folder_module
from tir.retrieval import sidecar as sidecar_module
from tir.retrieval.folder import ALIVE, Address, Folder
from tir.retrieval.index import load_index
from tir.retrieval.sidecar import retrieval


def test_without_a_search_no_server_is_started(bm25_directory, tmp_path):
    with retrieval(bm25_directory, log_path=tmp_path / "server.log") as endpoint:
        time.sleep(1)
        assert Folder(endpoint).address() is None
    assert not (tmp_path / "server.log").exists()


def test_what_a_killed_job_leaves_is_removed_by_the_next_one(bm25_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = f"""
import signal
from tir.retrieval.sidecar import retrieval
with retrieval({str(bm25_directory)!r}, log_path="server.log") as endpoint:
    print(endpoint, flush=True)
    signal.pause()
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
    )
    left = job.stdout.readline().strip()
    with retrieval(bm25_directory, log_path=tmp_path / "server.log") as endpoint:
        assert os.path.isdir(left) and os.path.isdir(endpoint)  # its job lives
    job.kill()
    job.communicate()
    assert os.path.isdir(left)
    with retrieval(bm25_directory, log_path=tmp_path / "server.log") as endpoint:
        assert not os.path.exists(left) and os.path.isdir(endpoint)
    assert not list(tmp_path.glob("tir-*"))


def test_killed_server_is_restarted_and_ended_with_the_job(bm25_directory, tmp_path, capsys):
    with retrieval(bm25_directory, log_path=tmp_path / "server.log", max_restarts=1) as endpoint:
        assert search(endpoint) == 2
        [first] = server_pids(url_of(endpoint))
        os.kill(first, signal.SIGKILL)
        assert search(endpoint, "queen") == 2  # the client waits until the restart is complete
        [second] = server_pids(url_of(endpoint))
        assert second != first
        os.kill(second, signal.SIGKILL)  # no restart left
        with pytest.raises(SearchUnavailable, match="server died: after 1 restarts"):
            search(endpoint, "castle")
    assert not alive(first) and not alive(second)
    assert "restart 1 of 1" in capsys.readouterr().err


def test_server_that_is_killed_while_it_starts_is_restarted(bm25_directory, tmp_path, capsys):
    def children() -> list[int]:
        return [child.pid for child in psutil.Process().children() if "tir.retrieval.server" in child.cmdline()]

    for restarts in (1, 0):
        with retrieval(bm25_directory, log_path=tmp_path / "server.log", max_restarts=restarts) as endpoint:
            Folder(endpoint).ask()
            assert wait_until(children, 20)
            os.kill(children()[0], signal.SIGKILL)
            if restarts:
                assert search(endpoint) == 2
            else:
                with pytest.raises(SearchUnavailable, match="status -9 while starting"):
                    search(endpoint)
    assert "killed while starting; restart 1 of 1" in capsys.readouterr().err


def test_hanging_server_is_replaced(bm25_directory, tmp_path, monkeypatch):
    """After SIGSTOP the process exists and the kernel accepts connections, but the server answers neither requests nor
    SIGTERM."""
    monkeypatch.setattr(sidecar_module, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(sidecar_module, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sidecar_module, "TERMINATE_S", 0.5)
    with retrieval(bm25_directory, log_path=tmp_path / "server.log") as endpoint:
        assert search(endpoint) == 2
        url = url_of(endpoint)
        [first] = server_pids(url)
        os.kill(first, signal.SIGSTOP)
        assert wait_until(lambda: server_pids(url) not in ([], [first]), 30)
        assert search(endpoint, "queen") == 2
        [second] = server_pids(url)
        os.kill(second, signal.SIGSTOP)
    assert not alive(first) and not alive(second)


PARENT = """
import sys, time
from tir.retrieval.client import SearchClient
from tir.retrieval.folder import Folder
from tir.retrieval.sidecar import retrieval
with retrieval(sys.argv[1], log_path=sys.argv[2]) as endpoint:
    SearchClient(endpoint).batch_search_sync(["king"])
    print(Folder(endpoint).address().url, flush=True)
    time.sleep(600)
"""


def test_server_ends_when_its_parent_is_killed(bm25_directory, tmp_path):
    command = [sys.executable, "-c", PARENT, str(bm25_directory), str(tmp_path / "server.log")]
    parent = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    url = parent.stdout.readline().strip()
    [pid] = server_pids(url)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not alive(pid), 15)


def test_error_gives_the_reason_why_the_server_is_not_ready(bm25_directory, tmp_path):
    with (
        pytest.raises(DataError, match="no such directory"),
        retrieval(tmp_path / "nowhere", log_path=tmp_path / "log"),
    ):
        pass
    (tmp_path / "index").mkdir()
    shutil.copy(bm25_directory / "manifest.json", tmp_path / "index")  # without the corpus
    with (
        retrieval(tmp_path / "index", log_path=tmp_path / "log") as endpoint,
        pytest.raises(SearchUnavailable, match="index file missing.*the manifest lists it"),
    ):
        search(endpoint)
    with (
        retrieval(bm25_directory, log_path=tmp_path / "log", start_s=0.1) as endpoint,
        pytest.raises(SearchUnavailable, match="not ready in time"),
    ):
        search(endpoint)


def test_a_server_that_always_runs_is_used_only_with_the_jobs_index(bm25_directory, tmp_path):
    with (
        serving(FakeIndex()) as (url, _),
        retrieval(bm25_directory, endpoint=url, log_path=tmp_path / "log") as endpoint,
        pytest.raises(WrongIndex, match="another index"),
    ):
        search(endpoint)
    with (
        serving(FakeIndex(digest=load_index(bm25_directory).digest)) as (url, _),
        retrieval(bm25_directory, endpoint=url, log_path=tmp_path / "log") as endpoint,
    ):
        assert search(endpoint) == 2
    assert not (tmp_path / "log").exists()


# --- the run's server ---------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path, monkeypatch) -> Folder:
    """The folder of a run whose keeper answers within 2 s."""
    monkeypatch.setattr(sidecar_module, "BEAT_EVERY_S", 0.2)
    monkeypatch.setattr(sidecar_module, "PROBE_EVERY_S", 0.2)
    folder = Folder(tmp_path / "run")
    folder.create()
    return folder


def answer_requests(folder: Folder, *answers) -> threading.Thread:
    """A keeper that makes one of the calls at each request."""

    def keep() -> None:
        for answer in answers:
            assert wait_until(folder.take_request, 20)
            answer()

    thread = threading.Thread(target=keep)
    thread.start()
    return thread


def test_jobs_use_the_run_s_server_and_after_its_end_the_next_one(bm25_directory, tmp_path, run_folder, capsys):
    index, log = FakeIndex(digest=load_index(bm25_directory).digest), tmp_path / "log"
    with retrieval(bm25_directory, run=str(run_folder.path), log_path=log) as endpoint:
        with serving(index, token="one") as (url, _):
            keeper = answer_requests(run_folder, lambda: run_folder.publish(Address(url, "one")))
            assert search(endpoint) == search(endpoint) == 2 and url_of(endpoint) == url
            keeper.join()
        with serving(index, token="two") as (url, _):  # the first one is dead, its address still there
            keeper = answer_requests(run_folder, lambda: run_folder.publish(Address(url, "two")))
            assert search(endpoint, "queen") == 2 and url_of(endpoint) == url
            keeper.join()
    assert len(index.batches) == 2 and not log.exists()
    said = capsys.readouterr().err
    assert said.count("retrieval: the run's server, http") == 3 and "does not answer /health" in said


@pytest.mark.parametrize("fault", ["refused", "no keeper", "not run", "another index", "unreachable"])
def test_without_the_run_s_server_a_job_starts_its_own(
    bm25_directory, tmp_path, run_folder, capsys, monkeypatch, fault
):
    name = str(run_folder.path)
    with contextlib.ExitStack() as stack:
        match fault:
            case "refused":
                run_folder.refuse("no place for it")
                words = "not available: no place for it"
            case "no keeper":
                (run_folder.path / ALIVE).write_text("7")
                monkeypatch.setattr(folder_module, "BEAT_LOST_S", 0.5)
                words = "did not come within"
            case "not run":
                name, words = f"{name}-of-another", "this run has no server"
            case "another index":
                url, _ = stack.enter_context(serving(FakeIndex()))
                run_folder.publish(Address(url))
                words = "the server's is 0123456789abcdef"
            case "unreachable":
                run_folder.publish(Address("http://127.0.0.1:9"))
                words = "cannot be reached from this machine: ConnectError"
        endpoint = stack.enter_context(retrieval(bm25_directory, run=name, log_path=tmp_path / "log"))
        assert search(endpoint) == 2
    said = capsys.readouterr().err
    assert words in said and "starting a server beside this job" in said and "ready after" in said
