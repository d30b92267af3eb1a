"""verl's processes as one unit: started in a group of their own, found again by their scratch directory, ended for certain.

Ray starts a dozen processes, some of which outlive a driver that is killed. All of them inherit the driver's environment,
and the scratch directory in it is unique to the run, so no process of another run is ever touched.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "TIR_SCRATCH"


def start(command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path) -> subprocess.Popen:
    """Start a command whose output is appended to `log`; `environment` must hold `MARK`."""
    with open(log, "ab") as output:
        return subprocess.Popen(command, env=dict(environment), cwd=directory, stdin=subprocess.DEVNULL, stdout=output,
                                stderr=subprocess.STDOUT, start_new_session=True)


def end(process: subprocess.Popen, mark: str, *, grace_s: float = 15.0) -> None:
    """End a command and everything it started: asked first, then killed. Safe to call after it has ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        left = marked(mark)
        if not left:
            break
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.send_signal(number)
        psutil.wait_procs(left, timeout=3.0)
    process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this user whose environment says that they belong to the run with this scratch directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait(process: subprocess.Popen, seconds: float) -> int | None:
    """Exit status, or None if the process still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(max(0.0, deadline - time.monotonic()))
    return None
