"""A server or trainer beside a job: started in a process group of its own, its output in a log, ended for certain."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_KILLED_S = 20.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

_libc = ctypes.CDLL(None)


def start(command: Sequence[str], log_path: str | os.PathLike) -> subprocess.Popen:
    """Start a command that can import this project; its output is appended to the log."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(log_path, "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                env={**os.environ, "PYTHONPATH": path})


def end(child: subprocess.Popen, grace_s: float) -> None:
    """End a child that leads its group: asked first, with time to finish, then killed with whatever it left behind."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    kill(child)


def kill(child: subprocess.Popen) -> None:
    """End its whole group at once."""
    _signal(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_KILLED_S)


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when the one that forked it ends, however that happens.

    Args:
        number: the signal.
        parent: its process number, against its having ended already; None where a PID namespace hides it.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def last_words(log_path: str | os.PathLike) -> str:
    """The end of a log, where a process's own error stands."""
    lines = Path(log_path).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-2:])


def _signal(child: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
