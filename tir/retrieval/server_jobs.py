"""The two ways to run the server of a run: as a Slurm job, or as a process of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal, Protocol

from tir.common import subprocesses

LOGS = "logs/retrieval_server"
State = Literal["queued", "running", "gone", "unknown"]


class Job(Protocol):
    """A way to run the server."""

    def start(self) -> str:
        """Start it; returns its name for the log. Raises `OSError` or `subprocess.SubprocessError`."""
        ...

    def state(self) -> State: ...

    def cancel(self) -> None: ...


class SlurmJob:
    """The server as a Slurm job.

    Args:
        script: shell script of the job.
        options: options of `sbatch`.
    """

    def __init__(self, script: str, options: list[str]):
        self._script, self._options, self._id = script, options, ""

    def start(self) -> str:
        Path(LOGS).mkdir(parents=True, exist_ok=True)
        options = ["--parsable", "--export=ALL", "--no-requeue", "--job-name=retrieval-server"]
        # If Snakemake itself runs in a job, that job's variables would change the request.
        environment = {k: v for k, v in os.environ.items() if k[:6] != "SLURM_" or k == "SLURM_CONF"}
        done = subprocess.run(
            ["sbatch", *options, f"--output={LOGS}/%j.log", *self._options],
            input=self._script,
            env=environment,
            text=True,
            capture_output=True,
            timeout=60,
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"sbatch: {done.stderr.strip()}")
        self._id = done.stdout.strip().split(";")[0]
        return f"Slurm job {self._id}, log {LOGS}/{self._id}.log"

    def state(self) -> State:
        try:
            done = _run(["squeue", "--noheader", "--format=%T", f"--jobs={self._id}"])
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        if done.returncode:
            return "gone" if "Invalid job id" in done.stderr else "unknown"
        states = done.stdout.split()
        if not states:
            return "gone"
        return "queued" if states[0] in ("PENDING", "CONFIGURING") else "running"

    def cancel(self) -> None:
        for _ in range(5):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                done = _run(["scancel", self._id])
                if done.returncode == 0 or "Invalid job id" in done.stderr:
                    return
            time.sleep(2)


class LocalJob:
    """The server as a process of this machine.

    Args:
        script: shell script that runs it.
    """

    def __init__(self, script: str):
        self._script = script
        self._process: subprocess.Popen | None = None

    def start(self) -> str:
        Path(LOGS).mkdir(parents=True, exist_ok=True)
        log = f"{LOGS}/{socket.gethostname()}.log"
        self._process = subprocesses.start(["bash", "-c", self._script], log)
        return f"process {self._process.pid}, log {log}"

    def state(self) -> State:
        return "running" if self._process and self._process.poll() is None else "gone"

    def cancel(self) -> None:
        subprocesses.end(self._process, 12.0)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
