"""The preloaded worker behind the Python tool: it imports numpy, sympy and scipy once and forks a child per call.

It reads one JSON string (code) per line on descriptor 0 and answers one JSON object per line on descriptor 1. The first
line it writes says what stands around its calls:

    {"missing": {barrier: reason}}
    {"status": "ok" | "error" | "timeout" | "fault", "stdout": str, "type": str, "text": str}

`error` and `timeout` are the code's own doing; `fault` is not: the call could not be set up, and the code never ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import tempfile
import time
from dataclasses import dataclass

from tir.tools.sandbox import call
from tir.tools.sandbox.barriers import Barriers, build
from tir.tools.sandbox.levels import BARRIERS

PREAMBLE = """
import math
import numpy as np
import sympy
from sympy import symbols, Eq, solve
x, y, z = sympy.symbols('x y z')
"""
# What a first call pays for and its successors would pay again: sympy's caches, and modules that code likes to import.
_WARM_UP = """
import scipy, random, itertools, functools, collections, fractions, decimal, statistics, datetime, string, re
solve(Eq(x**2 - 2, 0), x); solve([x + y - 1, x - y], [x, y]); sympy.factor(x**3 - 1); sympy.simplify(x / x)
sympy.integrate(x**2, x); sympy.factorint(360); sympy.Rational(1, 3)
"""
# Run as the first call; its output is compared with what the barriers promise.
_INSIDE = """
import os, json
seen = {"pid": os.getpid(), "root": os.path.exists("/proc/self")}
try:
    if os.fork() == 0: os._exit(0)
    seen["fork"] = True
except OSError:
    seen["fork"] = False
try:
    os.listdir("/"), open("/etc/passwd")
    seen["files"] = True
except OSError:
    seen["files"] = False
print(json.dumps(seen))
"""
_PR_SET_CHILD_SUBREAPER = 36
_SETUP_S = 30.0


@dataclass(frozen=True)
class Settings:
    """Limits of a call.

    Attributes:
        timeout_s: wall-clock seconds. memory_mb: MiB of address space.
        output_bytes: bytes of output kept, half from each end.
        without: barriers left out although the kernel has them; for tests of what remains.
    """

    timeout_s: float
    memory_mb: int
    output_bytes: int
    without: tuple[str, ...] = ()


def serve(settings: Settings) -> None:
    """Build the barriers, preload, answer until the pipe on descriptor 0 closes."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0), os.dup2(null, 1)
    # A child closes all descriptors up to this bound one by one where the C library knows nothing better.
    resource.setrlimit(resource.RLIMIT_NOFILE, (call.DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    barriers, missing = build(settings.without)
    globals_: dict = {"__name__": "__main__"}
    exec(PREAMBLE, globals_)
    exec(_WARM_UP, dict(globals_))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Objects that live on are never looked at by a child's collector, whose marks would copy their pages.
    gc.collect()
    gc.freeze()
    missing |= check_from_inside(_call(_INSIDE, globals_, barriers, settings), missing)
    print(json.dumps({"missing": missing}), file=answers, flush=True)
    for line in requests:
        print(json.dumps(_call(json.loads(line), globals_, barriers, settings)), file=answers, flush=True)


def check_from_inside(answer: dict, missing: dict[str, str]) -> dict[str, str]:
    """Barriers that were built and do not hold, by what the first call saw."""
    if answer["status"] != "ok":
        raise RuntimeError(f"the first call failed: {answer['text']}")
    seen = json.loads(answer["stdout"])
    broken = {"namespaces": seen["pid"] != 1 or seen["root"], "seccomp": seen["fork"],
              "landlock": seen["files"]}
    return {name: "it was built, but a call saw through it" for name in BARRIERS if name not in missing and broken[name]}


def _call(code: str, globals_: dict, barriers: Barriers, settings: Settings) -> dict[str, str]:
    """Fork, run, collect up to the byte and time limit, kill what is left."""
    stdout_read, stdout_write = os.pipe()
    report_read, report_write = os.pipe()
    with contextlib.ExitStack() as stack:
        for pipe in (stdout_read, report_read):
            stack.callback(os.close, pipe)
        if not barriers.namespaces:
            barriers = barriers.within(stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tir-call-", ignore_cleanup_errors=True)))
        try:
            child = barriers.namespaces.fork() if barriers.namespaces else os.fork()
        except OSError as error:
            os.close(stdout_write), os.close(report_write)
            return {"status": "fault", "stdout": "", "type": "OSError", "text": f"no process could be made: {error}"}
        if child == 0:
            call.run(code, globals_, barriers, stdout_write, report_write, timeout_s=settings.timeout_s,
                     memory_mb=settings.memory_mb)
        os.close(stdout_write), os.close(report_write)
        output, report = Ends(settings.output_bytes), Ends(65536)
        # The clock of the code starts when the code does; a machine too busy to set a call up is no fault of it.
        ready = _collect(child, {report_read: report}, _SETUP_S, until_ready=True)
        timed_out = ready and _collect(child, {stdout_read: output, report_read: report}, settings.timeout_s)
        status = _end(child)
    return _answer(timed_out, status, output, report.value, settings)


def _answer(timed_out: bool, status: int, output: Ends, report: bytes, settings: Settings) -> dict[str, str]:
    answer = {"stdout": output.value.decode("utf-8", "replace"), "type": "", "text": ""}
    if not report.startswith(call.READY):
        reason = report.decode("utf-8", "replace") or f"it ended with status {status}"
        return answer | {"status": "fault", "text": f"the call could not be set up: {reason}"}
    if timed_out:
        return answer | {"status": "timeout", "type": "TimeoutError", "text": f"timed out after {settings.timeout_s:g} s"}
    try:
        outcome = json.loads(report[len(call.READY):])
        if not outcome:
            return answer | {"status": "ok"}
        return answer | {"status": "error", "type": str(outcome["type"]), "text": str(outcome["text"])}
    except (ValueError, KeyError, TypeError):  # no report, or one the code forged: its end speaks for it
        if os.WIFSIGNALED(status):
            text = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            text = f"exited with status {os.waitstatus_to_exitcode(status)}"
        return answer | {"status": "error", "type": "SystemExit", "text": text}


class Ends:
    """The first and last bytes of a stream of any length."""

    def __init__(self, limit: int):
        self._half, self._head, self._tail = limit // 2, bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Append; memory stays within twice the limit plus one read."""
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def value(self) -> bytes:
        """Head and tail."""
        return bytes(self._head + self._tail[-self._half :])


def _collect(child: int, streams: dict[int, Ends], seconds: float, until_ready: bool = False) -> bool:
    """Read until the child has ended or closed its pipes.

    Returns:
        Whether it ran out of time; with `until_ready`, whether it reported that the code starts.
    """
    waiting, deadline = set(streams), time.monotonic() + seconds
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            return not until_ready
        ready = select.select(list(waiting), [], [], min(left, 0.2))[0]
        for pipe in ready:
            # One line at most before the code starts, so nothing of its report is read early.
            data = os.read(pipe, len(call.READY) if until_ready else 65536)
            streams[pipe].add(data) if data else waiting.discard(pipe)
            if until_ready and streams[pipe].value == call.READY:
                return True
        # A left-over process may hold a pipe open; the call ends with the child all the same.
        if not ready and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    return False


def _end(child: int) -> int:
    """Kill the child, its session and, in a PID namespace, all others there; return its wait status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # orphans that were handed to this process
            pass
    return status
