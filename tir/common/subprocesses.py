"""Start a server or trainer in its own process group with its output in a log, and end the whole group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from tir.common.errors import InfrastructureFault

ROOT = Path(__file__).resolve().parents[2]
_KILLED_S = 20.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

_libc = ctypes.CDLL(None)


def start(
    command: Sequence[str],
    log_path: str | os.PathLike,
    *,
    directory: str | os.PathLike | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen:
    """Start a command with this project on PYTHONPATH; without keys; its output is appended to the log.

    Args:
        command: the command.
        log_path: its log.
        directory: its working directory; None: that of this process.
        variables: environment variables in addition to those of this process, of which it gets all but the keys.
    """
    from tir.common.keys import VARIABLES  # here: the sandbox's workers, which import this module, have no use for it

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=directory,
            env={**inherited, **variables, "PYTHONPATH": path},
        )


def reserve_port() -> tuple[socket.socket, int]:
    """Reserve a free port of 127.0.0.1 for a child process, until the returned socket is closed.

    The socket is bound, but does not listen. Linux then gives the port to no other process, but a server that asks for
    this port with SO_REUSEADDR may listen on it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held, held.getsockname()[1]


def end(child: subprocess.Popen, grace_s: float) -> None:
    """Send SIGTERM to a child's process group, wait up to `grace_s`, then kill what is left of the group."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    kill(child)


def kill(child: subprocess.Popen) -> None:
    """Kill a child's whole process group."""
    _signal(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_KILLED_S)


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Make the kernel send this process a signal when its parent ends.

    Args:
        number: the signal.
        parent: id of the parent, to detect that it has already ended; None if a PID namespace hides it.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def end_at_once(status: int) -> NoReturn:
    """End this process without its exit functions and without waiting for threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class StallLimit:
    """Time within which a training process must finish its next step.

    Args:
        seconds: the limit.
        log: log of the process, for the error.
    """

    def __init__(self, seconds: float, log: str | os.PathLike):
        self._seconds, self._log, self._last = seconds, log, time.monotonic()

    def progress(self) -> None:
        """Begin the time anew, because a step has finished."""
        self._last = time.monotonic()

    def check(self) -> None:
        """Raise `InfrastructureFault` if the time is over."""
        if time.monotonic() - self._last > self._seconds:
            raise InfrastructureFault(
                "training hangs",
                where=str(self._log),
                why=f"no step finished in {self._seconds:g} s",
                remedy="run the same command again; it continues from the last checkpoint",
            )


def tail(log: str | os.PathLike, lines: int) -> list[str]:
    """The last non-empty lines of a log; no lines if the file does not exist."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def log_tail(log_path: str | os.PathLike) -> str:
    """The last two lines of a log, which usually contain the error of the process."""
    return " / ".join(line.strip() for line in tail(log_path, 2))


def _signal(child: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
