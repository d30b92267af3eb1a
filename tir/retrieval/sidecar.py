"""The retrieval server that a job searches with, found or started at the job's first search.

The job uses the server of its run (`tir.retrieval.standing`) if there is one, and otherwise starts its own beside
itself. A thread keeps a folder in which the job's processes request a server and find its address. The thread watches
the server, replaces a lost one, and ends its own with the job. If the job is killed, the kernel ends the server.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace

import httpx

from tir.common.errors import SearchUnavailable
from tir.common.files import Scratch
from tir.common.http import ask_once
from tir.common.sidecar import Sidecar, is_healthy
from tir.retrieval.client import INDEX_HEADER, resolve_endpoint, wrong_index
from tir.retrieval.files import index_digest, is_dense, read_manifest
from tir.retrieval.folder import ALIVE, BEAT_EVERY_S, Address, Folder, Heartbeat

RETRIEVAL_HELP = "how to find a retrieval server: JSON with `endpoint`, `run`, `queue_s`, `start_s` of `retrieval`"
# A server counts as hanging after two failed probes, so within 2 x (3 + 4) = 14 s; a dead one is found within 1 s.
PROBE_EVERY_S = 3.0
PROBE_TIMEOUT_S = 4.0
TERMINATE_S = 12.0  # the server answers requests in flight for up to 10 s
LOOK_EVERY_S = 0.5


@contextlib.contextmanager
def retrieval(
    index_directory: str | os.PathLike,
    *,
    log_path: str | os.PathLike,
    endpoint: str = "none",
    run: str = "none",
    queue_s: float = 120.0,
    start_s: float = 1800.0,
    max_restarts: int = 3,
    model: str | None = None,
    device: str = "cpu",
    threads: int = 0,
    cache_size: int = 10_000,
) -> Iterator[str]:
    """Yield the endpoint for the job's `SearchClient`s. No server is started before the first search.

    Args:
        index_directory: the job's index. An answer from another index is an error.
        log_path: file to which the output of a server of the job's own is appended.
        endpoint: address of a server that always runs, or "none"; then the job uses no other.
        run: folder of the run's server, or "none".
        queue_s: how long the run's server may wait for a GPU, in seconds.
        start_s: longest start of a server in seconds; it reads the index first, at paper scale 32 GB.
        max_restarts: number of restarts of the job's own server, if it dies or hangs.
        model: see `load_index`.
        device: see `load_index`; the default is the CPU, because the engine uses the job's GPUs.
        threads: see `load_index`.
        cache_size: number of results that the server caches.

    Raises:
        DataError: the index is not complete.

    If no server can be had, searches raise `SearchUnavailable`, with the end of the server's log.
    """
    manifest = read_manifest(index_directory)
    digest, dense = index_digest(manifest), is_dense(manifest)
    options = ["--device", device, "--threads", str(threads), "--cache-size", str(cache_size)]
    options += ["--model", model] if model else []

    def command(port: int) -> list[str]:
        where = ["--index", str(index_directory), "--port", str(port)]
        return [sys.executable, "-m", "tir.retrieval.server", *where, *options]

    def fault(why: str) -> SearchUnavailable:
        return SearchUnavailable(
            "retrieval server failed", where=str(index_directory), why=why, remedy=f"see {log_path}"
        )

    with Scratch("tir-retrieval-") as directory:
        folder = Folder(directory)
        if endpoint != "none":
            address = Address(resolve_endpoint(endpoint).url, index=digest, dense=dense)
            _say(f"the site's server, {address.url}, index {digest}")
            folder.publish(address)
            yield str(directory)
            return
        own = Sidecar(command, fault, log_path, TERMINATE_S)
        shared = _RunServer(Folder(run), digest, queue_s, start_s, own.ending) if run != "none" else None
        keeper = _Keeper(folder, shared, own, (digest, dense), start_s, max_restarts)
        keeper.start()
        try:
            yield str(directory)
        finally:
            own.ending.set()
            keeper.join()
            own.stop()


class _Keeper(threading.Thread):
    """Keeps the job's folder: waits for the first search, finds or starts a server, and replaces a lost one."""

    def __init__(
        self,
        folder: Folder,
        shared: _RunServer | None,
        own: Sidecar,
        index: tuple[str, bool],
        start_s: float,
        max_restarts: int,
    ):
        super().__init__(name="retrieval", daemon=True)
        self._folder, self._shared, self._own, (self._digest, self._dense) = folder, shared, own, index
        self._start_s, self._max_restarts = start_s, max_restarts
        self._ending = own.ending

    def run(self) -> None:
        try:
            while self._asked():
                address = self._shared.find() if self._shared else None
                if not address:
                    self._keep_own()
                    return
                self._folder.publish(replace(address, index=self._digest, dense=self._dense))
                lost = self._shared.watch(address)
                self._folder.withdraw()
                if lost:
                    _say(f"the run's server, {address.url}, {lost}")
        except SearchUnavailable as error:
            self._folder.refuse(f"{error.what}: {error.why}")
        except Exception as error:  # whatever it is: those who wait for a server must not wait for ever
            traceback.print_exc()
            self._folder.refuse(f"{type(error).__name__}: {error}")

    def _asked(self) -> bool:
        """Wait until a process of the job searches; False if the job ends before."""
        while not self._ending.wait(0.05):
            if self._folder.take_request():
                return True
        return False

    def _keep_own(self) -> None:
        restarts = 0
        while True:
            _say("starting a server beside this job")
            started = time.monotonic()
            self._own.start()
            try:
                url = self._own.wait(started + self._start_s)
            except SearchUnavailable:
                # A server that ends by itself has no restart: its log says why, and it would end again.
                if not self._own.killed_while_starting or restarts == self._max_restarts:
                    raise
                restarts += 1
                _say(f"server was killed while starting; restart {restarts} of {self._max_restarts}")
                continue
            self._folder.publish(Address(url, index=self._digest, dense=self._dense))
            _say(
                f"a server beside this job, {url}, index {self._digest}, ready after {time.monotonic() - started:.1f} s"
            )
            why = self._loss_of_own(url)
            self._folder.withdraw()
            if why is None:
                return
            if restarts == self._max_restarts:
                raise SearchUnavailable(f"server {why}", why=f"after {restarts} restarts; see {self._own.log_path}")
            restarts += 1
            _say(f"server {why}; restart {restarts} of {self._max_restarts}")

    def _loss_of_own(self, url: str) -> str | None:
        """Wait until the job's own server is lost, and say how; None if the job ends."""
        failures, next_probe = 0, time.monotonic() + PROBE_EVERY_S
        while not self._ending.wait(LOOK_EVERY_S):
            if self._own.process.poll() is not None:
                return "died"
            if time.monotonic() >= next_probe:
                failures = 0 if is_healthy(url, PROBE_TIMEOUT_S) else failures + 1
                next_probe = time.monotonic() + PROBE_EVERY_S
            if failures == 2:
                return "does not answer /health"
        return None


class _RunServer:
    """The server of the job's run, as the job sees it.

    Args:
        folder: the run's folder.
        digest: digest of the job's index.
        queue_s: how long the server may wait for a GPU.
        start_s: how long it may take to start.
        ending: set when the job ends.
    """

    def __init__(self, folder: Folder, digest: str, queue_s: float, start_s: float, ending: threading.Event):
        self._folder, self._digest, self._ending = folder, digest, ending
        self._wait_s = queue_s + start_s
        self._lost: set[Address] = set()

    def find(self) -> Address | None:
        """Ask for the server and wait until it is ready; None if there is none, or the job ends."""
        if not self._folder.exists():
            _say("this run has no server")
            return None
        started, asked = time.monotonic(), -BEAT_EVERY_S
        heartbeat = Heartbeat(self._folder.path / ALIVE)
        while not self._ending.wait(LOOK_EVERY_S):
            waited = time.monotonic() - started
            address = self._folder.address()
            if address and address not in self._lost:
                return address if self._usable(address) else None
            if why := self._folder.refusal():
                _say(f"the run's server is not available: {why}")
                return None
            if waited > self._wait_s or heartbeat.lost():
                _say(f"the run's server did not come within {waited:.0f} s")
                return None
            if waited - asked >= BEAT_EVERY_S:
                if asked < 0:
                    _say("waiting for the run's server")
                self._folder.ask()
                asked = waited
        return None

    def _usable(self, address: Address) -> bool:
        for _ in range(3):
            found, why = _served_index(address)
            if found == self._digest:
                _say(f"the run's server, {address.url}, index {found}")
                return True
            if not why:
                _say(f"not the run's server: {wrong_index(replace(address, index=self._digest), found)}")
                return False
            self._ending.wait(2)
        _say(f"the run's server, {address.url}, cannot be reached from this machine: {why}")
        return False

    def watch(self, address: Address) -> str | None:
        """Wait until the server is lost, and say how; None if the job ends."""
        failures = 0
        while not self._ending.wait(PROBE_EVERY_S):
            failures = 0 if is_healthy(address.url, PROBE_TIMEOUT_S) else failures + 1
            gone = self._folder.address() != address
            if failures == 2 or (failures and gone):
                self._lost.add(address)
                return "has ended" if gone else "does not answer /health"
        return None


def _served_index(address: Address) -> tuple[str | None, str]:
    """Digest of the index that a server answers from, and why it is not known."""
    try:
        answer = ask_once("GET", f"{address.url}/health", PROBE_TIMEOUT_S, proxies=False)
        return answer.raise_for_status().headers.get(INDEX_HEADER), ""
    except httpx.HTTPError as error:
        return None, f"{type(error).__name__}: {error}"


def _say(text: str) -> None:
    print(f"retrieval: {text}", file=sys.stderr, flush=True)
