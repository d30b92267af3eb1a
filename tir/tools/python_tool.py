"""The Python tool: model-written code in, what it printed out (upstream `evaluation/python_executor.py`).

Calls run in sandboxed forks of preloaded workers (`tir.tools.sandbox`), as many at once as there are cores. What the
model sees differs from upstream only by the named options below; `tir.presets` has upstream's values of them. Not an
option: a call that ends its process (`exit()`, a crash, all its memory) yields an error text, where upstream's ends the
evaluator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, Literal

from pydantic import Field

from tir.errors import ConfigError, ToolUnavailable
from tir.schema import Model, operational
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind
from tir.tools.sandbox import levels
from tir.tools.sandbox.call import Settings
from tir.tools.sandbox.worker import Worker

_MOST_WORKERS = 16


class PythonToolConfig(Model):
    """Settings of the Python tool."""

    timeout_s: float = Field(5.0, gt=0, le=600, description="seconds; upstream code 5, the paper's text 30")
    memory_mb: int = Field(2048, ge=256, le=65536, description="MiB of address space")
    output_chars: int = Field(400, ge=16, le=100_000, description="cap on the payload, both ends kept")
    empty_output: str = Field("Done", description='payload of code that prints nothing; upstream RL "Done", evaluation ""')
    timeout_text: str | None = Field(None, description="payload of a call that ran too long; null names the limit")
    unnamed_errors: Literal["type", "empty"] = Field("type", description="payload of an exception without words")
    refuse: list[str] = Field([], description="code with one of these strings fails unrun; upstream input( and os.system(")
    minimum_level: int = Field(2, ge=0, le=3, description="sandbox level below which nothing runs; tir/tools/sandbox/levels.py")
    workers: int | None = operational(None, ge=1, le=256, description="calls that run at once; null: the job's cores, at most 16")
    queue_timeout_s: float = operational(300.0, gt=0, le=3600, description="seconds a call may wait for a worker: a fault beyond")
    recycle_after: int = operational(10_000, ge=1, description="calls after which a worker is replaced")


class PythonTool:
    """A pool of workers, each running one call at a time and replaced after so many.

    Args:
        timeout_s: wall-clock limit of a call in seconds (upstream code 5, the paper's text 30).
        memory_mb: address space of a call in MiB.
        output_chars: cap on the payload, both ends kept (upstream 400).
        empty_output: payload of code that prints nothing; upstream RL says "Done", upstream evaluation "".
        timeout_text: payload of a call that ran too long; None says after how many seconds.
        unnamed_errors: an exception without words is shown as its `type`, or upstream's `empty` text.
        refuse: code with one of these strings fails unrun and without a word; upstream `input(` and `os.system(`.
        minimum_level: sandbox level (`tir.tools.sandbox.levels`) below which nothing is run.
        workers: calls that may run at once; None takes the cores this process may use, at most 16.
        queue_timeout_s: longest wait for a free worker; beyond it the call raises `ToolUnavailable`.
        recycle_after: calls after which a worker is replaced.
        without: barriers left out on purpose; for tests.

    Raises (`run`, `call`): `ToolUnavailable` if the call waited too long or its worker failed, `ConfigError` if this
    machine does not reach `minimum_level`. Running too long is a `timeout` result.
    """

    def __init__(self, *, timeout_s: float = 5.0, memory_mb: int = 2048, output_chars: int = 400,
                 empty_output: str = "Done", timeout_text: str | None = None,
                 unnamed_errors: str = "type", refuse: tuple[str, ...] | list[str] = (), minimum_level: int = 2,
                 workers: int | None = None, queue_timeout_s: float = 300.0, recycle_after: int = 10_000,
                 without: tuple[str, ...] = ()):
        self.timeout_s, self.output_chars, self.empty_output = timeout_s, output_chars, empty_output
        self.timeout_text, self.unnamed_errors, self.refuse = timeout_text, unnamed_errors, tuple(refuse)
        self.minimum_level, self.queue_timeout_s, self.recycle_after = minimum_level, queue_timeout_s, recycle_after
        self.workers = workers or min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        # Four bytes is the longest UTF-8 character; a few more for white space that is stripped.
        self._settings = Settings(timeout_s, memory_mb, max(65536, 8 * output_chars), tuple(without))
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="python-tool")
        self._told = ""

    async def call(self, body: str) -> ToolResult:
        """Run code; the event loop stays free."""
        future = self._threads.submit(self._run, body)
        waiter = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiter}, timeout=self.queue_timeout_s)
        except asyncio.CancelledError:
            waiter.cancel()  # a call that still waits is never run; one that runs has its limit
            raise
        if not future.done() and future.cancel():
            raise self._waited_too_long()
        return await waiter

    def run(self, code: str) -> ToolResult:
        """Run one program and wait for it."""
        future: Future[ToolResult] = self._threads.submit(self._run, code)
        try:
            return future.result(timeout=self.queue_timeout_s)
        except NotYet:
            if future.cancel():
                raise self._waited_too_long() from None
            return future.result()

    def run_many(self, codes: list[str]) -> list[ToolResult]:
        """Run many programs, `workers` at a time, results in order; there is no limit on waiting."""
        return list(self._threads.map(self._run, codes))

    def start(self) -> int:
        """Start a worker now and return the sandbox level it reached; refuses a machine that is too weak."""
        return self._threads.submit(self._start_one).result()

    def _start_one(self) -> int:
        with self._worker() as worker:
            return levels.level(worker.missing)

    def _run(self, code: str) -> ToolResult:
        started = time.monotonic()
        if any(text in code for text in self.refuse):
            return ToolResult("", "error", time.monotonic() - started)
        with self._worker() as worker:
            answer = worker.ask(code)
            if answer["status"] == "fault":
                raise ToolUnavailable("a Python call could not be started", where="tools.python", why=answer["text"],
                                      remedy="it is tried again; if it stays so, give the job more memory or fewer cores")
        return self._result(answer, time.monotonic() - started)

    @contextlib.contextmanager
    def _worker(self):
        """A worker for one call. There are as many as threads, so one is always there, though maybe not started yet."""
        worker = self._idle.get_nowait()
        try:
            worker = self._ready(worker)
            yield worker
        except BaseException as error:
            # Whatever went wrong is not the model's fault; the next call gets a fresh worker.
            if worker:
                worker.kill()
            worker = None
            if isinstance(error, OSError):
                raise ToolUnavailable("the Python worker died", where="tools.python", why=str(error),
                                      remedy="the next call starts another; `dmesg` tells if memory ran out") from error
            raise
        finally:
            self._idle.put(worker)

    def _result(self, answer: dict[str, str], seconds: float) -> ToolResult:
        status, output = answer["status"], answer["stdout"].strip()
        if status == "ok":
            return ToolResult(cap(output, self.output_chars) if output else self.empty_output, "ok", seconds)
        if status == "timeout":
            return ToolResult(answer["text"] if self.timeout_text is None else self.timeout_text, "timeout", seconds)
        text = answer["text"]
        if answer["type"] == "SystemExit":
            text = f"SystemExit: {text}"
        elif not text and self.unnamed_errors == "type":
            text = answer["type"]
        return ToolResult(cap(text, self.output_chars), "error", seconds)

    def _ready(self, worker: Worker | None) -> Worker:
        """A live worker that has calls left, and whose sandbox is strong enough."""
        if worker and worker.alive and worker.calls < self.recycle_after:
            return worker
        if worker:
            worker.close()
        worker = Worker(self._settings)
        reached = levels.level(worker.missing)
        if (told := levels.describe(worker.missing)) != self._told:  # also if it changes: never weaker without a word
            self._told = told
            print(told, file=sys.stderr)
        if reached < self.minimum_level:
            worker.close()
            raise ConfigError(
                f"the Python sandbox reaches level {reached}, minimum_level is {self.minimum_level}", where="tools.python",
                why="; ".join(f"no {name} ({why})" for name, why in worker.missing.items()),
                remedy="; or ".join([levels.REMEDIES[name] for name in worker.missing]
                                    + [f"accept it in config.yaml:  tools: {{python: {{minimum_level: {reached}}}}}"]))
        return worker

    def _waited_too_long(self) -> ToolUnavailable:
        return ToolUnavailable("no Python worker became free", where="tools.python",
                               why=f"waited {self.queue_timeout_s:g} s for one of {self.workers}",
                               remedy="give the job more cores, or have fewer trajectories in flight")

    def close(self) -> None:
        """Finish what runs, drop what waits, end all workers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            worker = self._idle.get_nowait()
            if worker:
                worker.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@contextlib.contextmanager
def _make(settings: Mapping[str, Any], endpoint: str | None) -> Iterator[PythonTool]:
    with PythonTool(**settings) as tool:
        tool.start()  # a machine whose sandbox is too weak is refused now, not at the first call
        yield tool


TOOL = ToolKind("python", PythonToolConfig, _make)
