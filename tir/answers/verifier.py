"""Symbolic equality in killable worker processes, with a hard deadline.

Symbolic algebra can hang for hours on a model's answer. Every comparison therefore runs in a worker process that is
killed at its deadline and replaced; the pair is tried once more in a fresh worker with twice the time (a loaded
machine is not the model's fault), and only then counts as unequal and is *counted*, so that a report can say how many
verdicts were forced. A worker proves itself on known pairs before its first verdict is believed, and the machine does
after every pair that was given up: if the known pairs take as long, it is to blame and not the model's answer.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tir.errors import ToolUnavailable

KNOWN_PAIRS = (  # (prediction, gold, equal): what a broken parser, time-out or installation gets wrong first
    (r"\frac{1}{2}", "0.5", True),
    (r"\sqrt{117}", r"3\sqrt{13}", True),
    ("x+1", "1+x", True),
    (r"\frac{1}{3}", "0.33", False),
    (r"2\sqrt{13}", r"3\sqrt{13}", False),
)
_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-P", "-m", "tir.answers.math_worker")


@dataclass
class VerifierCounts:
    """What happened so far: comparisons asked, pairs given up, workers replaced, expressions not understood."""

    comparisons: int = 0
    timeouts: int = 0
    replaced: int = 0
    unreadable: int = 0


class Verifier:
    """A pool of symbolic-equality workers, started when first needed; safe to share between threads and after a fork.

    Args:
        workers: comparisons that can run at once.
        deadline: seconds for the first try of a pair; the second has twice as long.
        start_deadline: seconds a worker may take to import its libraries (they are slow on a busy file system).
        command: the worker's command line; tests replace it.

    `equal` raises `ToolUnavailable` if no worker can be started or one fails the known pairs, or if they take as long as
    a pair that was given up.
    """

    def __init__(
        self,
        workers: int = 1,
        deadline: float = 5.0,
        start_deadline: float = 180.0,
        command: tuple[str, ...] = _COMMAND,
    ):
        self.workers, self.deadline, self.start_deadline, self.command = workers, deadline, start_deadline, command
        self.counts = VerifierCounts()
        self._lock = threading.Lock()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], bool] = {}
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def equal(self, prediction: str, gold: str) -> bool:
        """Whether two LaTeX expressions denote the same thing; a pair that cannot be decided in time is unequal."""
        if os.getpid() != self._owner:  # a forked child must not share its parent's pipes
            self._reset()
        pair = (prediction, gold)
        if pair not in self._known:
            verdict = self._decide(prediction, gold)
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[pair] = verdict
        return self._known[pair]

    def self_test(self) -> None:
        """Start one worker and let it prove itself, so that a bad installation fails before any work."""
        worker = self._idle.get()
        try:
            worker = worker or self._start(self.start_deadline)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End every idle worker that this process started."""
        if os.getpid() != self._owner:
            return
        for _ in range(self._idle.qsize()):
            worker = self._idle.get_nowait()
            if worker:
                worker.kill()
            self._idle.put(None)

    def _decide(self, prediction: str, gold: str) -> bool:
        self._count("comparisons")
        for deadline in (self.deadline, 2 * self.deadline):
            worker = self._idle.get()
            try:
                worker = worker or self._start(self.start_deadline)
                answer = worker.ask(prediction, gold, deadline)
                if "error" in answer:
                    self._count("unreadable")
                return answer.get("equal", False)
            except (_WorkerGone, TimeoutError):
                worker.kill()
                worker = None
                self._count("replaced")
            finally:
                self._idle.put(worker)
        self._count("timeouts")
        worker, proven = self._idle.get(), None
        try:
            if worker:
                worker.kill()  # it has the known pairs in its cache
            proven = self._start(2 * self.deadline)
        finally:
            self._idle.put(proven)
        return False

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.counts, name, getattr(self.counts, name) + 1)

    def _start(self, patience: float) -> _Worker:
        """A new worker that has decided every known pair, each in `patience` seconds."""
        worker = _Worker(self.command)
        try:
            if not worker.read(self.start_deadline).get("ready"):
                raise _WorkerGone("it did not report ready")
            wrong = [
                f"{prediction} against {gold}"
                for prediction, gold, equal in KNOWN_PAIRS
                if worker.ask(prediction, gold, patience).get("equal") is not equal
            ]
        except (_WorkerGone, TimeoutError) as error:
            why = f"{error}; its last words: {worker.last_words()}"
            worker.kill()
            raise ToolUnavailable(
                "the math equivalence worker does not start or does not decide known pairs",
                where=" ".join(self.command),
                why=why,
                remedy="install the pinned math-verify and sympy of envs/, or run on a less loaded machine",
            ) from None
        if wrong:
            worker.kill()
            raise ToolUnavailable(
                "the math equivalence worker gives wrong verdicts on known pairs",
                where=" ".join(self.command),
                why="; ".join(wrong),
                remedy="install the pinned math-verify and sympy of envs/",
            )
        return worker


class _WorkerGone(Exception):
    """The worker's process ended or wrote something that is no answer."""


class _Worker:
    """One worker process and its pipes."""

    def __init__(self, command: tuple[str, ...]):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.buffer = b""
        self.poll = select.poll()  # not select(): a trainer's process holds more than 1024 descriptors
        self.poll.register(self.process.stdout, select.POLLIN)

    def ask(self, prediction: str, gold: str, deadline: float) -> dict:
        request = json.dumps({"prediction": prediction, "gold": gold, "deadline": deadline}) + "\n"
        try:
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise _WorkerGone(str(error)) from None
        return self.read(deadline)

    def read(self, deadline: float) -> dict:
        """The next answer; `TimeoutError` at the deadline (seconds from now)."""
        end = time.monotonic() + deadline
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not self.poll.poll(1000 * left):
                raise TimeoutError(f"no answer in {deadline:g} s")
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise _WorkerGone("the process ended")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError:
            raise _WorkerGone(f"not an answer: {line[:80]!r}") from None

    def last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 500))
        return self.errors.read().decode(errors="replace").strip() or "none"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()


_default: Verifier | None = None
_default_lock = threading.Lock()


def default_verifier() -> Verifier:
    """The process-wide verifier, made on first use (one worker, 5 s)."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Verifier()
        return _default
