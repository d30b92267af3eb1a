"""Whether another run lives in this folder; if none does, Snakemake's locks are those of a run that was killed.

A run that is killed at once, as by SIGKILL or a power failure, leaves its locks in `.snakemake/locks`. The same command
would then fail until `--unlock`. Each run therefore holds a lock of the kernel, which ends with its process.
"""

from __future__ import annotations

import atexit
import socket
from pathlib import Path

from tir.common.files import Scratch

_RUNNING, _LOCKS = Path(".snakemake/running"), Path(".snakemake/locks")


def begin() -> None:
    """Note that this process runs the workflow in this folder; remove Snakemake's locks if no other one does.

    A run that was killed on another machine is not known to be dead. Its locks stay until `--unlock`.
    """
    _RUNNING.mkdir(parents=True, exist_ok=True)
    run = Scratch(f"{socket.gethostname()}@", _RUNNING)
    atexit.register(run.remove)
    if [each.name for each in _RUNNING.iterdir()] == [run.path.name]:
        for lock in _LOCKS.glob("*.lock"):
            lock.unlink(missing_ok=True)
