"""Symbolic equality in worker processes that are killed at a deadline.

Computer algebra can run for hours on a model's answer, so every comparison runs in a worker process with a deadline. A
worker that exceeds it is killed and replaced, and the pair is tried once more in a new worker with twice the time.
After a second time-out the pair counts as unequal and as a time-out in the report.

Two tests separate model faults from infrastructure faults. A new worker must decide some known pairs correctly before
it is used. After a second time-out a new worker must decide the known pairs within the same time; if it does not, the
machine is too slow and `ToolUnavailable` is raised.
"""

from __future__ import annotations

import atexit
import contextlib
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

from tir.common.errors import ToolUnavailable
from tir.common.subprocesses import ROOT

KNOWN_PAIRS = (  # (prediction, gold, equal), which a broken parser, time-out or installation gets wrong
    (r"\frac{1}{2}", "0.5", True),
    (r"\sqrt{117}", r"3\sqrt{13}", True),
    ("x+1", "1+x", True),
    (r"\frac{1}{3}", "0.33", False),
    (r"2\sqrt{13}", r"3\sqrt{13}", False),
    ("1 m", "100 cm", True),
    ("x=1, y=2", "x=2, y=1", False),
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", False),
)
_COMMAND = (sys.executable, "-m", "tir.scoring.answers.math_worker")


@dataclass
class VerifierCounts:
    """Numbers of comparisons, of pairs that timed out twice, of replaced workers, and of unparsable expressions."""

    comparisons: int = 0
    timeouts: int = 0
    replaced: int = 0
    unreadable: int = 0


class Verifier:
    """A pool of workers for symbolic equality, started at first use; can be shared between threads and after a fork.

    Args:
        workers: number of comparisons at a time.
        deadline: seconds for the first try of a pair; the second try gets twice as long.
        start_deadline: seconds for a worker to import its libraries (slow on a busy file system).
        command: the worker's command line; tests replace it.

    `equal` raises `ToolUnavailable` if a worker does not start, or does not decide the known pairs correctly and in
    time.
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
        """Whether two LaTeX expressions denote the same object; False for a pair that is not decided in time."""
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
        """Start one worker and test it on the known pairs, so that a faulty installation fails before any work."""
        worker = self._idle.get()
        try:
            worker = worker or self._start(self.start_deadline)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill every idle worker that this process started."""
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
        idle, tested = self._idle.get(), None
        try:
            if idle:
                idle.kill()  # test a new worker: sympy in this one has cached the known pairs
            tested = self._start(2 * self.deadline)
        finally:
            self._idle.put(tested)
        return False

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.counts, name, getattr(self.counts, name) + 1)

    def _start(self, deadline: float) -> _Worker:
        """A new worker that has decided every known pair correctly, each within `deadline` seconds."""
        worker = _Worker(self.command)
        try:
            if not worker.read(self.start_deadline).get("ready"):
                raise _WorkerGone("it did not report ready")
            wrong = [
                f"{prediction} against {gold}"
                for prediction, gold, equal in KNOWN_PAIRS
                if worker.ask(prediction, gold, deadline).get("equal") is not equal
            ]
        except (_WorkerGone, TimeoutError) as error:
            why = f"{error}; end of its error output: {worker.error_output()}"
            worker.kill()
            raise ToolUnavailable(
                "the worker for symbolic equality does not start, or does not decide known pairs in time",
                where=" ".join(self.command),
                why=why,
                remedy="pip install '.[scoring]' in a clone of the repository (in the workflow: make environments), "
                "or run on a less loaded machine",
            ) from None
        if wrong:
            worker.kill()
            raise ToolUnavailable(
                "the worker for symbolic equality gives wrong verdicts on known pairs",
                where=" ".join(self.command),
                why="; ".join(wrong),
                remedy="pip install '.[scoring]' in a clone of the repository (in the workflow: make environments)",
            )
        return worker


class _WorkerGone(Exception):
    """The worker's process ended or wrote a line that is not an answer."""


class _Worker:
    """One worker process and its pipes."""

    def __init__(self, command: tuple[str, ...]):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=ROOT,  # where `-m` finds this project, installed or not
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

    def error_output(self) -> str:
        """The last 500 bytes of its error output."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 500))
        return self.errors.read().decode(errors="replace").strip() or "none"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # closing writes what is buffered, and the process that reads it is gone
                stream.close()


_default: Verifier | None = None
_default_lock = threading.Lock()


def default_verifier() -> Verifier:
    """The verifier of this process, created at first use (one worker, deadline 5 s)."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Verifier()
        return _default
