"""One retrieval server for all jobs of a run, started when the first of them searches.

A run whose plan has jobs that search starts this program beside Snakemake. It keeps a folder on the shared file system
(`tir.retrieval.folder`). When a job requests a server there, it submits one Slurm job with the server, or starts one on
this machine. The server writes its address and a random token into the folder, and ends after some time without a
search. When Snakemake ends, the standard input of this program is closed, and the program ends the server. If this
machine is lost, the server ends because the number in `alive` stays the same. A server that dies is started once more,
at the next request of a job. After that, jobs start their own.

Run: `python -m tir.retrieval.standing --folder DIR --settings JSON`, as `start` does. It imports no other library.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tir.common import subprocesses
from tir.retrieval.folder import ALIVE, BEAT_EVERY_S, SERVER, Folder, Heartbeat
from tir.retrieval.server_jobs import LOGS, Job, LocalJob, SlurmJob, State

RESTARTS = 1
TICK_S = 1.0
POLL_S = 5.0  # between two questions to Slurm
_RUN_VARIABLE = "TIR_RETRIEVAL_RUN"
_started: list[subprocess.Popen] = []  # kept, because a deleted one closes its pipe


class Manager:
    """Keeps the folder of a run.

    Args:
        folder: the folder, which exists.
        job: the server.
        queue_s: jobs wait for the server while it has been queued for less than so many seconds.
        start_s: a server that is not ready so many seconds after it was granted counts as dead.
        poll_s: seconds between two questions about the state of the job.
    """

    def __init__(self, folder: Folder, job: Job, queue_s: float, start_s: float, poll_s: float = POLL_S):
        self._folder, self._job, self._queue_s, self._start_s, self._poll_s = folder, job, queue_s, start_s, poll_s
        self._beats, self._next_beat, self._next_poll = 0, 0.0, 0.0
        self._submitted: float | None = None  # when the job was submitted; None: there is no job
        self._running: float | None = None  # when it was first seen running
        self._deaths, self._ready = 0, False
        self._others: dict[Path, Heartbeat] = {}

    def step(self) -> None:
        """One pass; call it about once a second."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._beats, self._next_beat = self._beats + 1, now + BEAT_EVERY_S
            self._folder.beat(self._beats)
            self._remove_folders_of_killed_runs()
        if self._submitted is None:
            if self._deaths <= RESTARTS and self._folder.take_request():
                self._submit(now)
            return
        self._folder.take_request()
        if not self._ready and self._folder.address():
            self._ready = True
            self._folder.allow()
            _say(f"ready, {self._folder.address().url}")
        if now >= self._next_poll:
            self._next_poll = now + self._poll_s
            self._check(self._job.state(), now)

    def end(self) -> None:
        """End the server and remove the folder."""
        if self._submitted is not None:
            self._job.cancel()
            _say("ended with the run")
        shutil.rmtree(self._folder.path, ignore_errors=True)

    def _remove_folders_of_killed_runs(self) -> None:
        alive = set(self._folder.path.parent.glob(f"*/{ALIVE}")) - {self._folder.path / ALIVE}
        self._others = {path: self._others.get(path) or Heartbeat(path) for path in alive}
        for path, heartbeat in self._others.items():
            if heartbeat.lost() and not _runs_here(path.parent.name):
                shutil.rmtree(path.parent, ignore_errors=True)

    def _submit(self, now: float) -> None:
        try:
            name = self._job.start()
        except (OSError, subprocess.SubprocessError) as error:
            self._died(f"could not be started: {error}")
            return
        self._submitted, self._running, self._ready, self._next_poll = now, None, False, now + self._poll_s
        _say(f"a job searches; {name}")

    def _check(self, state: State, now: float) -> None:
        if state == "gone":
            self._submitted = None
            # A server that ends by itself removes its address.
            if self._ready and not self._folder.address():
                _say("ended, because there was no search or its time was over; the next search starts it again")
                return
            self._folder.withdraw()
            self._died("died" if self._ready else "did not start")
        elif state == "queued" and now - self._submitted > self._queue_s and not self._folder.refusal():
            self._refuse(f"no place for it within {self._queue_s:g} s; it stays in the queue for later jobs")
        elif state == "running" and not self._ready:
            if self._running is None:
                self._running = now
                self._folder.allow()
            elif now - self._running > self._start_s:
                self._job.cancel()
                self._submitted = None
                self._died(f"was not ready within {self._start_s:g} s")

    def _died(self, cause: str) -> None:
        self._deaths += 1
        if self._deaths <= RESTARTS:
            _say(f"{cause}; restart {self._deaths} of {RESTARTS} when a job asks")
        else:
            self._refuse(f"it {cause}, after {RESTARTS} restart; see {LOGS}")

    def _refuse(self, why: str) -> None:
        self._folder.refuse(why)
        _say(f"{why}; jobs that ask now start their own")


def run_folder() -> str:
    """The folder of this run. Snakemake's jobs inherit the name by the environment."""
    unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return f".snakemake/retrieval/{os.environ.setdefault(_RUN_VARIABLE, unique)}"


def _runs_here(name: str) -> bool:
    """Whether the run whose folder has this name runs on this machine; it may be suspended."""
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    return host == socket.gethostname() and Path(f"/proc/{rest}").is_dir()


def script(python: str, folder: str, idle_s: float, host: str, *, inside: str = "", gpus: str | None = None) -> str:
    """The shell script that runs the server.

    Args:
        python: interpreter of the server.
        folder: the run's folder.
        idle_s: see `tir.retrieval.server.serve`.
        host: address to listen on.
        inside: command that runs another one in a container image, e.g. `apptainer exec IMAGE`. The shell expands it.
        gpus: value of CUDA_VISIBLE_DEVICES, or None to leave it.
    """
    server = [python, "-m", "tir.retrieval.server", "--index", "index", "--host", host, "--port", "0"]
    server += ["--endpoint-file", f"{folder}/{SERVER}", "--new-token", "--alive", f"{folder}/{ALIVE}"]
    server += ["--idle-s", f"{idle_s:g}"]
    visible = f"export CUDA_VISIBLE_DEVICES={shlex.quote(gpus)}\n" if gpus is not None else ""
    return f"#!/bin/bash\n{visible}exec {inside} {shlex.join(server)}\n"


def start(folder: str, settings: dict) -> None:
    """Start this program; it ends when the calling process ends, however that happens.

    Args:
        folder: the run's folder.
        settings: {"runs_on": "slurm" or "local", "script", "sbatch", "queue_s", "start_s"}.
    """
    command = [sys.executable, "-m", __spec__.name, "--folder", folder, "--settings", json.dumps(settings)]
    path = os.pathsep.join(filter(None, [str(subprocesses.ROOT), os.environ.get("PYTHONPATH")]))
    # In a session of its own it gets no Ctrl-C. The kernel closes the pipe when the caller ends.
    _started.append(
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": path})
    )


def main() -> None:
    """Command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--folder", required=True, help="the run's folder")
    parse.add_argument("--settings", required=True, type=json.loads, help="see `start`")
    arguments = parse.parse_args()
    given = arguments.settings
    folder = Folder(arguments.folder)
    folder.create()
    local = given["runs_on"] == "local"
    job = LocalJob(given["script"]) if local else SlurmJob(given["script"], given["sbatch"])
    manager = Manager(folder, job, given["queue_s"], given["start_s"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGHUP, lambda *_: sys.exit())
    try:
        keep(manager, lambda: not select.select([sys.stdin], [], [], TICK_S)[0])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        manager.end()


def keep(manager: Manager, run_lives: Callable[[], bool]) -> None:
    """Call `step` until the run is over; a failed pass, as when the disk is full, is repeated."""
    while run_lives():
        try:
            manager.step()
        except Exception as error:
            _say(f"{type(error).__name__}: {error}")


def _say(text: str) -> None:
    print(f"retrieval server: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
