"""Start and end the processes of a verl run.

Ray starts a dozen processes, and some outlive the driver if it is killed. All inherit the driver's environment. The
scratch directory in it is unique to the run, so it identifies the run's processes and no others.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "TIR_SCRATCH"


def start(command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path) -> subprocess.Popen:
    """Start a command in its own session and append its output to `log`; `environment` must contain `MARK`."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen, mark: str, *, grace_s: float = 15.0) -> None:
    """End a command and all its descendants: SIGTERM, then SIGKILL. May be called after the command has ended."""
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
    """Processes with the scratch directory `mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait(process: subprocess.Popen, seconds: float) -> int | None:
    """Wait for at most `seconds`; return the exit status, or None if the process is still running."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None
