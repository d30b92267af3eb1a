"""Detects other runs of the workflow in this folder; if there are none, Snakemake's locks are stale and are removed.

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
    """Register this process as a run in this folder; remove Snakemake's locks if no other run is registered.

    Whether a run on another machine was killed cannot be seen here, so its locks stay until `--unlock`.
    """
    _RUNNING.mkdir(parents=True, exist_ok=True)
    run = Scratch(f"{socket.gethostname()}@", _RUNNING)
    atexit.register(run.remove)
    if [each.name for each in _RUNNING.iterdir()] == [run.path.name]:
        for lock in _LOCKS.glob("*.lock"):
            lock.unlink(missing_ok=True)
