"""The Python tool: runs model-written code and returns its printed output (upstream `evaluation/python_executor.py`).

Calls run in sandboxed forks of preloaded workers (`tir.tools.sandbox`), one at a time per worker and by default one
worker per core. What the model sees differs from upstream only by the options below; `tir.config.presets` holds
upstream's values. One difference has no option: code that ends its process ends upstream's evaluator. Here `exit()` and
`sys.exit(0)` are successes, and a crash, another exit status or too little memory gives an error text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from pydantic import Field

from tir.common.errors import ConfigError, ToolUnavailable
from tir.common.schema import Model, operational
from tir.tools.base import ToolResult, cap
from tir.tools.registry import ToolKind
from tir.tools.sandbox import levels
from tir.tools.sandbox.call import Settings
from tir.tools.sandbox.worker import Worker

_MAX_DEFAULT_WORKERS = 16


class PythonToolConfig(Model):
    """Settings of the Python tool."""

    timeout_s: float = Field(
        5.0,
        gt=0,
        le=600,
        description="time limit of a call in seconds; upstream's code uses 5, the paper states 30",
    )
    memory_mb: int = Field(2048, ge=256, le=65536, description="address space of a call in MiB")
    output_chars: int = Field(
        400, ge=16, le=100_000, description="longest payload in characters; longer output keeps its beginning and end"
    )
    empty_output: str = Field(
        "Done", description='payload of code that prints nothing; upstream uses "Done" in RL and "" in evaluation'
    )
    timeout_text: str | None = Field(
        None, description='payload of a call that exceeds timeout_s; null: "timed out after N s"'
    )
    error_type: bool = Field(
        True,
        description="begin an error with the exception's type (KeyError: 42); false: its message alone, as upstream",
    )
    output_before_error: bool = Field(
        True,
        description="show what was printed before an error or the time limit, then the error; false: the error alone, "
        "as upstream",
    )
    unwrap: bool = Field(
        True,
        description="run code that is no valid Python as written, but is without a Markdown fence, the prompts of an "
        "interactive session (>>>) or the indentation of all its lines; false: run it as written, as upstream",
    )
    stderr: bool = Field(
        False, description="show what the program writes to standard error, warnings included; false as upstream"
    )
    refuse: list[str] = Field(
        [],
        description="code that contains one of these strings is not run and fails with an empty payload; upstream: "
        "input( and os.system(",
    )
    minimum_level: int = Field(
        2, ge=0, le=3, description="lowest sandbox level at which code may run; levels: tir/tools/sandbox/levels.py"
    )
    workers: int | None = operational(
        None,
        ge=1,
        le=256,
        description="calls at the same time; null: the job's cores, at most 16, shared by the GPUs of an RL run",
    )
    queue_timeout_s: float = operational(
        300.0,
        gt=0,
        le=3600,
        description="longest wait for a free worker in seconds; beyond it the call is an infrastructure fault",
    )
    recycle_after: int = operational(10_000, ge=1, description="number of calls after which a worker is replaced")


class PythonTool:
    """A pool of workers; each runs one call at a time and is replaced after `recycle_after` calls.

    The arguments are the settings of `PythonToolConfig`; `without` names sandbox barriers to leave out, for tests.

    Raises (`run`, `call`): `ToolUnavailable` if no worker becomes free within `queue_timeout_s` or the worker fails;
    `ConfigError` if this machine does not reach `minimum_level`. A call that exceeds `timeout_s` returns a `timeout`
    result.
    """

    def __init__(self, *, without: Sequence[str] = (), **settings: Any):
        self.settings = PythonToolConfig(**settings)
        self.workers = self.settings.workers or min(_MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))
        # A UTF-8 character has at most four bytes; twice that leaves room for white space that is stripped later.
        output_bytes = max(65536, 8 * self.settings.output_chars)
        self._worker_settings = Settings(
            self.settings.timeout_s,
            self.settings.memory_mb,
            output_bytes,
            tuple(without),
            unwrap=self.settings.unwrap,
            stderr=self.settings.stderr,
        )
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="python-tool")
        self._printed_level = ""

    async def call(self, body: str) -> ToolResult:
        """Run code without blocking the event loop."""
        future = self._threads.submit(self._run, body)
        waiter = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiter}, timeout=self.settings.queue_timeout_s)
        except asyncio.CancelledError:
            waiter.cancel()  # a queued call is dropped; a running call ends at its time limit
            raise
        if not future.done() and future.cancel():
            raise self._queue_timeout()
        return await waiter

    def run(self, code: str) -> ToolResult:
        """Run one program and wait for it."""
        future: Future[ToolResult] = self._threads.submit(self._run, code)
        try:
            return future.result(timeout=self.settings.queue_timeout_s)
        except FutureTimeout:
            if future.cancel():
                raise self._queue_timeout() from None
            return future.result()

    def run_many(self, codes: list[str]) -> list[ToolResult]:
        """Run many programs, `workers` at a time; results are in order. `queue_timeout_s` does not apply."""
        return list(self._threads.map(self._run, codes))

    def start(self) -> int:
        """Start a worker now and return its sandbox level; raises `ConfigError` below `minimum_level`."""
        return self._threads.submit(self._start_one).result()

    def _start_one(self) -> int:
        with self._worker() as worker:
            return levels.level(worker.missing)

    def _run(self, code: str) -> ToolResult:
        started = time.monotonic()
        if any(text in code for text in self.settings.refuse):
            return ToolResult("", "error", time.monotonic() - started)
        with self._worker() as worker:
            answer = worker.ask(code)
            if answer["status"] == "fault":
                raise ToolUnavailable(
                    "a Python call could not be started",
                    where="tools.python",
                    why=answer["text"],
                    remedy="the call is retried; if this error persists, give the job more memory or fewer cores",
                )
        return self._result(answer, time.monotonic() - started)

    @contextlib.contextmanager
    def _worker(self):
        """A worker for one call, started if necessary. The queue has one slot per thread, so it is never empty here."""
        worker = self._idle.get_nowait()
        try:
            worker = self._ready(worker)
            yield worker
        except BaseException as error:
            # Any exception here is an infrastructure fault: end this worker, the next call starts another.
            if worker:
                worker.kill()
            worker = None
            if isinstance(error, OSError):
                raise ToolUnavailable(
                    "the Python worker died",
                    where="tools.python",
                    why=str(error),
                    remedy="dmesg | grep -i oom  # shows whether memory ran out; the next call starts another worker",
                ) from error
            raise
        finally:
            self._idle.put(worker)

    def _result(self, answer: dict[str, str], seconds: float) -> ToolResult:
        settings, status, limit = self.settings, answer["status"], self.settings.output_chars
        output, text = answer["stdout"].strip(), answer["text"]
        if status == "ok":
            return ToolResult(cap(output, limit) if output else settings.empty_output, "ok", seconds)
        if status == "timeout":
            text = text if settings.timeout_text is None else settings.timeout_text
        elif answer["type"] and (settings.error_type or answer["type"] == "SystemExit"):
            text = f"{answer['type']}: {text}".removesuffix(": ")
        if output and settings.output_before_error:
            if len(output) + 1 + len(text) > limit:  # half of the room for each, so that the error is always seen
                output, text = cap(output, limit // 2), cap(text, limit // 2)
            return ToolResult(f"{output}\n{text}", status, seconds)
        return ToolResult(cap(text, limit), status, seconds)

    def _ready(self, worker: Worker | None) -> Worker:
        """The given worker if it is alive and below `recycle_after`, else a new one that reaches `minimum_level`."""
        if worker and worker.alive and worker.calls < self.settings.recycle_after:
            return worker
        if worker:
            worker.close()
        worker = Worker(self._worker_settings)
        reached = levels.level(worker.missing)
        # Print the level of the first worker, and again if a later worker reaches another one.
        if (level := levels.describe(worker.missing)) != self._printed_level:
            self._printed_level = level
            print(level, file=sys.stderr)
        if reached < self.settings.minimum_level:
            worker.close()
            raise ConfigError(
                f"the Python sandbox reaches level {reached}, minimum_level is {self.settings.minimum_level}",
                where="tools.python",
                why="; ".join(f"no {name} ({why})" for name, why in worker.missing.items()),
                remedy="; or ".join(
                    [levels.REMEDIES[name] for name in worker.missing]
                    + [
                        f"accept this level: PythonTool(minimum_level={reached}), "
                        f"or in config.yaml:  tools: {{python: {{minimum_level: {reached}}}}}"
                    ]
                ),
            )
        return worker

    def _queue_timeout(self) -> ToolUnavailable:
        return ToolUnavailable(
            "no Python worker became free",
            where="tools.python",
            why=f"waited {self.settings.queue_timeout_s:g} s for one of {self.workers}",
            remedy="give the job more cores, run fewer trajectories at once, or raise tools.python.queue_timeout_s",
        )

    def close(self) -> None:
        """Finish running calls, drop queued calls, end all workers."""
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
def _make(settings: PythonToolConfig, endpoint: str | None) -> Iterator[PythonTool]:
    with PythonTool(**dict(settings)) as tool:
        tool.start()  # raises now, not at the first call, if the sandbox level is too low
        yield tool


TOOL = ToolKind("python", PythonToolConfig, _make)
