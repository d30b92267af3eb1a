"""A retrieval server beside a job: started, watched, restarted and ended with it.

Nothing outlives the job: the server runs in a process group of its own that is ended on exit, and watches its parent
for the case that the parent is killed outright.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tir import subprocesses
from tir.errors import SearchUnavailable
from tir.records import read_json
from tir.retrieval.client import mark_fault, resolve_endpoint

PROBE_EVERY_S = 3.0  # with two failed probes in a row, a server that hangs is seen within
PROBE_TIMEOUT_S = 4.0  # 2 x (3 + 4) = 14 seconds; one that dies, within one
TERMINATE_S = 12.0  # the server drains for 10


class _Child:
    """One server process after another, on one port."""

    def __init__(self, index_directory: str, log_path: str | os.PathLike, options: list[str]):
        self.log_path = Path(log_path)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._index, self._options = str(index_directory), options
        self._scratch = tempfile.TemporaryDirectory(prefix="retrieval-")
        self.endpoint_file = Path(self._scratch.name) / "endpoint.json"
        self.port = 0
        self.process: subprocess.Popen | None = None
        self.ending = threading.Event()  # set when the job is over, so that nobody waits for a restart

    def start(self) -> None:
        """Start a server process."""
        self.endpoint_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tir.retrieval.server", "--index", self._index, "--port", str(self.port),
                   "--endpoint-file", str(self.endpoint_file), "--parent-pid", str(os.getpid()), *self._options]
        self.process = subprocesses.start(command, self.log_path)

    def wait(self, deadline: float) -> str:
        """Wait until it is ready; returns its URL. Raises `SearchUnavailable`."""
        while time.monotonic() < deadline and not self.ending.is_set():
            if self.endpoint_file.exists():
                self.port = read_json(self.endpoint_file)["port"]
                return resolve_endpoint(self.endpoint_file)
            if self.process.poll() is not None:
                raise self.fault(f"ended with status {self.process.returncode} while starting: {subprocesses.last_words(self.log_path)}")
            time.sleep(0.05)
        subprocesses.kill(self.process)
        raise self.fault(f"not ready in time: {subprocesses.last_words(self.log_path)}")

    def stop(self) -> None:
        """End it in an orderly way, with time to drain."""
        if self.process is not None:
            subprocesses.end(self.process, TERMINATE_S)
        self._scratch.cleanup()

    def fault(self, why: str) -> SearchUnavailable:
        return SearchUnavailable("retrieval server", where=self._index, why=why, remedy=f"see {self.log_path}")


class _Watch(threading.Thread):
    """Restarts a dead or hanging server; marks its endpoint lost when that fails."""

    def __init__(self, child: _Child, endpoint: str, max_restarts: int, restart_timeout_s: float):
        super().__init__(name="retrieval-watch", daemon=True)
        self._child, self._endpoint = child, endpoint
        self._max_restarts, self._restart_timeout_s = max_restarts, restart_timeout_s
        self.restarts = 0

    def run(self) -> None:
        failures, next_probe = 0, time.monotonic() + PROBE_EVERY_S
        while not self._child.ending.wait(0.5):
            dead = self._child.process.poll() is not None
            if not dead and time.monotonic() >= next_probe:
                failures = 0 if is_healthy(self._endpoint, PROBE_TIMEOUT_S) else failures + 1
                next_probe = time.monotonic() + PROBE_EVERY_S
            if self._child.ending.is_set() or not (dead or failures >= 2):
                continue
            if not self._restart("died" if dead else "does not answer /health"):
                return
            failures, next_probe = 0, time.monotonic() + PROBE_EVERY_S

    def _restart(self, why: str) -> bool:
        if self.restarts >= self._max_restarts:
            mark_fault(self._endpoint, f"server {why}, after {self.restarts} restarts; see {self._child.log_path}")
            return False
        self.restarts += 1
        print(f"retrieval: server {why}; restart {self.restarts} of {self._max_restarts}", file=sys.stderr, flush=True)
        subprocesses.kill(self._child.process)
        try:
            self._child.start()
            self._child.wait(time.monotonic() + self._restart_timeout_s)
        except SearchUnavailable as error:
            mark_fault(self._endpoint, str(error))
            return False
        return True

    def end(self) -> None:
        self._child.ending.set()
        self.join()


def is_healthy(endpoint: str, timeout_s: float) -> bool:
    """Whether one probe of /health is answered as it should."""
    try:
        response = httpx.get(f"{endpoint}/health", timeout=timeout_s, trust_env=False,
                             verify=endpoint.startswith("https://"))
        return response.status_code == 200 and response.json().get("status") == "healthy"
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


def _wait_for(endpoint: str, deadline: float) -> str:
    """URL of a server that runs elsewhere, once it answers."""
    while True:
        with contextlib.suppress(SearchUnavailable):
            url = resolve_endpoint(endpoint)
            if is_healthy(url, PROBE_TIMEOUT_S):
                return url
        if time.monotonic() > deadline:
            raise SearchUnavailable("retrieval server does not answer", where=endpoint,
                                    why="/health failed until the deadline",
                                    remedy="start it, or leave retrieval.endpoint empty: the job then starts its own")
        time.sleep(0.5)


@contextlib.contextmanager
def starting_server(index_directory: str | os.PathLike | None, *, endpoint: str | None = None,
                    log_path: str | os.PathLike, ready_timeout_s: float = 600.0,
                    max_restarts: int = 3, restart_timeout_s: float = 60.0,
                    model: str | None = None, device: str = "cpu", threads: int = 0,
                    cache_size: int = 10_000) -> Iterator[Callable[[], str]]:
    """Start a retrieval server; yield a function that waits until it answers, once, and returns its URL.

    Between the two there is time to load a model: at paper scale the server reads 32 GB first.

    Args:
        index_directory: index to serve; not needed with `endpoint`.
        endpoint: a server that runs elsewhere (URL, host:port or endpoint file): waited for, not managed.
        log_path: the started server's output is appended here.
        ready_timeout_s: seconds from now until /health must answer.
        max_restarts: how often a server that dies or hangs is started again, on the same port.
        restart_timeout_s: seconds a restart may take; beyond it every client of the endpoint in this process raises
            `SearchUnavailable` at its next call (clients elsewhere do when their retry budget is spent).
        model, device, threads: see `load_index`; a job's GPUs belong to the engine this server stands beside.
        cache_size: results the server remembers.

    Raises:
        SearchUnavailable: not ready in time; says why, with the server's own last words.
    """
    deadline = time.monotonic() + ready_timeout_s
    if endpoint:
        yield lambda: _wait_for(endpoint, deadline)
        return
    options = ["--device", device, "--threads", str(threads), "--cache-size", str(cache_size)]
    options += ["--model", model] if model else []
    child = _Child(str(index_directory), log_path, options)
    with contextlib.ExitStack() as stack:
        stack.callback(child.stop)
        child.start()

        def wait() -> str:
            url = child.wait(deadline)
            watch = _Watch(child, url, max_restarts, restart_timeout_s)
            stack.callback(mark_fault, url, None)
            stack.callback(watch.end)
            watch.start()
            return url

        yield wait


@contextlib.contextmanager
def retrieval_server(*arguments, **options) -> Iterator[str]:
    """`starting_server`, waited for: yield the URL of a retrieval server that answers."""
    with starting_server(*arguments, **options) as wait:
        yield wait()
