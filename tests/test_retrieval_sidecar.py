"""A supervised retrieval server: restarted when it dies or hangs, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import alive, wait_until
from tiny_retrieval import ROOT, FakeIndex, bm25_directory, corpus, serving  # noqa: F401  (fixtures)

from tir.errors import SearchUnavailable
from tir.retrieval import client as client_module
from tir.retrieval import sidecar as sidecar_module
from tir.retrieval.client import SearchClient
from tir.retrieval.sidecar import retrieval_server


def server_pids(endpoint: str) -> list[int]:
    """Processes of this user that serve `endpoint`'s port as a sidecar."""
    wanted = endpoint.rsplit(":", 1)[1]
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if "tir.retrieval.server" in (path / "cmdline").read_text() and alive(int(path.name)):
                sockets = [os.readlink(entry) for entry in (path / "fd").iterdir()]
                inodes = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                          if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == int(wanted)]
                if any(f"socket:[{inode}]" in sockets for inode in inodes):
                    pids.append(int(path.name))
    return pids


def test_sidecar_restarts_a_killed_server_and_leaves_nothing(bm25_directory, tmp_path):
    with retrieval_server(bm25_directory, log_path=tmp_path / "server.log", max_restarts=1) as url:
        client = SearchClient(url, top_k=2)
        assert len(client.batch_search_sync(["king"])[0]) == 2
        [first] = server_pids(url)
        os.kill(first, signal.SIGKILL)
        started = time.monotonic()
        assert len(client.batch_search_sync(["queen"])[0]) == 2  # its retries bridge the gap
        assert time.monotonic() - started < 60
        [second] = server_pids(url)
        assert second != first
        os.kill(second, signal.SIGKILL)  # no restart left
        started = time.monotonic()
        with pytest.raises(SearchUnavailable, match="after 1 restarts"):
            client.batch_search_sync(["castle"])
        assert time.monotonic() - started < 15
    assert not alive(first) and not alive(second)
    assert client_module._faults == {}


def test_sidecar_replaces_a_server_that_hangs(bm25_directory, tmp_path, monkeypatch):
    """SIGSTOP: the process lives and its port accepts, but nothing answers. The last one cannot even be terminated."""
    monkeypatch.setattr(sidecar_module, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(sidecar_module, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sidecar_module, "TERMINATE_S", 0.5)
    with retrieval_server(bm25_directory, log_path=tmp_path / "server.log") as url:
        [first] = server_pids(url)
        os.kill(first, signal.SIGSTOP)
        assert wait_until(lambda: server_pids(url) not in ([], [first]), 30)
        assert len(SearchClient(url, top_k=2).batch_search_sync(["queen"])[0]) == 2
        [second] = server_pids(url)
        os.kill(second, signal.SIGSTOP)
    assert not alive(first) and not alive(second)


PARENT = """
import sys, time
from tir.retrieval.sidecar import retrieval_server
with retrieval_server(sys.argv[1], log_path=sys.argv[2]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_server_dies_with_its_parent(bm25_directory, tmp_path):
    command = [sys.executable, "-c", PARENT, str(bm25_directory), str(tmp_path / "server.log")]
    parent = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    url = parent.stdout.readline().strip()
    [pid] = server_pids(url)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not alive(pid), 15)


def test_sidecar_says_why_a_server_cannot_start(tmp_path):
    with pytest.raises(SearchUnavailable, match="no such directory"), \
            retrieval_server(tmp_path / "nowhere", log_path=tmp_path / "log"):
        pass
    with pytest.raises(SearchUnavailable, match="/health failed"), \
            retrieval_server(None, endpoint="127.0.0.1:9", log_path=tmp_path / "log", ready_timeout_s=0.3):
        pass
    with serving(FakeIndex()) as (url, _), retrieval_server(None, endpoint=url, log_path=tmp_path / "log") as gated:
        assert gated == url
