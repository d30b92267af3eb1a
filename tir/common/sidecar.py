"""A sidecar: a server that runs on the same machine as a job and ends with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from tir.common import subprocesses
from tir.common.errors import InfrastructureFault
from tir.common.http import ask_once


class Sidecar:
    """A server process on a fixed port of this machine.

    Args:
        command: function from the port to the command line of a server that answers `/health` with 200 when ready.
        fault: function from a reason to the error to raise.
        log_path: file to which the server's output is appended.
        grace_s: time in seconds between SIGTERM and SIGKILL.

    Attributes:
        url: base URL of the server.
        process: the running process; None before the first start.
        killed_while_starting: whether a signal ended the last start.
        ending: set when the job ends, to stop waiting for a start.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        fault: Callable[[str], InfrastructureFault],
        log_path: str | os.PathLike,
        grace_s: float,
    ):
        self._reserved, port = subprocesses.reserve_port()
        self.url, self._command = f"http://127.0.0.1:{port}", command(port)
        self._fault, self.log_path, self._grace_s = fault, Path(log_path), grace_s
        self.process: subprocess.Popen | None = None
        self.killed_while_starting = False
        self.ending = threading.Event()

    def start(self) -> None:
        """Start the server; kills a process that still runs."""
        if self.process is not None:
            subprocesses.kill(self.process)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        # With setpriv the kernel ends the server if the job is killed.
        prefix = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        self.process = subprocesses.start([*prefix, *self._command], self.log_path)

    def wait(self, deadline: float) -> str:
        """Wait until the server is ready, and return its URL.

        Args:
            deadline: value of `time.monotonic()` at which the server is killed.

        Raises the `fault`, with the end of the log, if the server ends or is not ready by the deadline.
        """
        why, self.killed_while_starting = "not ready in time", False
        while time.monotonic() < deadline and not self.ending.is_set():
            if is_healthy(self.url, 1.0):
                return self.url
            if self.process.poll() is not None:
                why = f"ended with status {self.process.returncode} while starting"
                self.killed_while_starting = self.process.returncode < 0
                break
            time.sleep(0.1)
        subprocesses.kill(self.process)
        raise self._fault(f"{why}: {subprocesses.log_tail(self.log_path)}")

    def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL after `grace_s`."""
        if self.process is not None:
            subprocesses.end(self.process, self._grace_s)
        self._reserved.close()


def is_healthy(url: str, timeout_s: float) -> bool:
    """Whether the server answers one GET of `/health` with status 200, the whole answer within `timeout_s`."""

    try:
        return ask_once("GET", f"{url}/health", timeout_s, proxies=False).is_success
    except httpx.HTTPError:
        return False
