"""The Python tool: model-written code in, what it printed out (upstream `evaluation/python_executor.py`).

Differences from upstream, each an option or a fault removed: a call that ends its process (`exit()`, a crash) yields
an error text instead of ending the evaluator; nothing is refused by regular expression; output printed before an
exception is not lost to the limits; a preloaded worker forks per call instead of building a process pool per call.
"""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tir.errors import ToolUnavailable
from tir.tools.base import ToolResult, cap

_ZYGOTE = Path(__file__).with_name("zygote.py")
_STARTUP_SECONDS = 60.0


class PythonTool:
    """A pool of preloaded workers, started on first use, each running one call at a time.

    Args:
        timeout_s: wall-clock limit of a call in seconds (upstream code 5, the paper's text 30).
        memory_mb: address space of a call in MiB.
        output_chars: cap on the payload, both ends kept (upstream 400).
        workers: calls that may run at once.
        empty_output: payload of code that prints nothing; upstream RL says "Done", upstream evaluation "".
        queue_timeout_s: longest wait for a free worker; beyond it the call raises `ToolUnavailable`.
    """

    def __init__(self, *, timeout_s: float = 5.0, memory_mb: int = 2048, output_chars: int = 400, workers: int = 2,
                 empty_output: str = "Done", queue_timeout_s: float = 120.0):
        self.timeout_s, self.memory_mb, self.output_chars = timeout_s, memory_mb, output_chars
        self.empty_output, self.queue_timeout_s, self.workers = empty_output, queue_timeout_s, workers
        self._idle: queue.LifoQueue[subprocess.Popen | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="python-tool")
        self._closed = threading.Event()

    async def call(self, body: str) -> ToolResult:
        """Run code; the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run, body)

    def run_many(self, codes: list[str]) -> list[ToolResult]:
        """Run many programs, `workers` at a time, results in order."""
        return list(self._threads.map(self.run, codes))

    def run(self, code: str) -> ToolResult:
        """Run one program and wait for it."""
        started = time.monotonic()
        try:
            worker = self._idle.get(timeout=self.queue_timeout_s)
        except queue.Empty:
            raise ToolUnavailable("no Python worker became free", where="tools.python",
                                  why=f"waited {self.queue_timeout_s:g} s", remedy="raise tools.python.workers") from None
        try:
            worker = worker if worker and worker.poll() is None else self._start()
            answer = self._ask(worker, code)
        except (OSError, ValueError) as error:
            # The worker itself died: not the model's fault, and the next call gets a fresh one.
            worker.kill() if worker else None
            worker = None
            raise ToolUnavailable("the Python worker died", where="tools.python", why=str(error)) from error
        finally:
            self._idle.put(worker)
        return self._result(answer, time.monotonic() - started)

    def _result(self, answer: dict, seconds: float) -> ToolResult:
        output = answer["stdout"].strip()
        if answer["status"] == "ok":
            return ToolResult(cap(output, self.output_chars) if output else self.empty_output, "ok", seconds)
        return ToolResult(cap(answer["error"], self.output_chars), answer["status"], seconds)

    def _start(self) -> subprocess.Popen:
        """Start a worker and wait until it has imported what calls may use."""
        worker = subprocess.Popen([sys.executable, "-I", str(_ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, start_new_session=True,
                                  env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        timer = threading.Timer(_STARTUP_SECONDS, worker.kill)
        timer.start()
        line = worker.stdout.readline()
        timer.cancel()
        if not line:
            raise OSError("it did not start")
        return worker

    def _ask(self, worker: subprocess.Popen, code: str) -> dict:
        request = {"code": code, "timeout_s": self.timeout_s, "memory_mb": self.memory_mb,
                   # Bytes beyond the cap are read and dropped; four bytes is the longest UTF-8 character.
                   "output_bytes": max(65536, 4 * self.output_chars)}
        guard = threading.Timer(self.timeout_s + 10.0, worker.kill)
        guard.start()
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        finally:
            guard.cancel()
        if not line:
            raise OSError(f"exit status {worker.poll()}")
        return json.loads(line)

    def close(self) -> None:
        """End all workers."""
        self._threads.shutdown(wait=True)
        while not self._idle.empty():
            worker = self._idle.get_nowait()
            if worker:
                worker.stdin.close()
                worker.wait(timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
