"""The preloaded worker behind the Python tool: it imports numpy, sympy and scipy once and forks a child per call.

Run as a program, it reads one JSON request per line on descriptor 0 and answers one JSON line on descriptor 1:

    {"code": str, "timeout_s": float, "memory_mb": int, "output_bytes": int}
    -> {"status": "ok" | "error" | "timeout", "stdout": str, "error": str}

The child runs in a session of its own with resource limits, an empty environment, an empty working directory and no
inherited descriptor but its two pipes; whatever it does to itself (`exit()`, `os._exit`, a crash, all its memory)
ends that child and becomes an error text here.

Covered: time, memory, file size, descriptors and output of one call; exit and crashes; left-over children in the
call's session. Not covered at this level: reading files of the host, the network, a child that leaves its session.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time

PREAMBLE = """
import math
import numpy as np
import sympy
from sympy import symbols, Eq, solve
x, y, z = sympy.symbols('x y z')
"""
_PR_SET_CHILD_SUBREAPER = 36


def serve() -> None:
    """Answer requests until the parent closes the pipe."""
    import scipy  # noqa: F401  (preloaded so that a call's own import of it costs nothing)

    namespace: dict = {"__name__": "__main__"}
    exec(PREAMBLE, namespace)
    # A first solve fills sympy's caches; without it every forked child would pay for them.
    exec("solve(Eq(x**2 - 2, 0), x); sympy.simplify(x / x)", dict(namespace))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_call(json.loads(line), namespace)), file=answers, flush=True)


def _call(request: dict, namespace: dict) -> dict:
    """Fork, run, collect up to the byte and time limit, kill what is left."""
    stdout_read, stdout_write = os.pipe()
    report_read, report_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="tir-call-") as directory:
        child = os.fork()
        if child == 0:
            _child(request, dict(namespace), directory, stdout_write, report_write)
        os.close(stdout_write)
        os.close(report_write)
        timed_out, texts = _collect(child, request, (stdout_read, report_read))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        _reap()
    stdout, report = texts[stdout_read], texts[report_read]
    if timed_out:
        return {"status": "timeout", "stdout": stdout, "error": f"timed out after {request['timeout_s']:g} s"}
    if report.startswith("ok"):
        return {"status": "ok", "stdout": stdout, "error": ""}
    if report.startswith("error:"):
        return {"status": "error", "stdout": stdout, "error": report[len("error:") :]}
    if os.WIFSIGNALED(status):
        return {"status": "error", "stdout": stdout, "error": f"killed by {signal.Signals(os.WTERMSIG(status)).name}"}
    return {"status": "error", "stdout": stdout, "error": f"exited with status {os.waitstatus_to_exitcode(status)}"}


def _collect(child: int, request: dict, pipes: tuple[int, int]) -> tuple[bool, dict[int, str]]:
    """Read both pipes until the child is done, the time is up, or nothing more fits."""
    chunks: dict[int, bytearray] = {pipe: bytearray() for pipe in pipes}
    open_pipes, deadline = set(pipes), time.monotonic() + request["timeout_s"]
    timed_out = False
    while open_pipes:
        left = deadline - time.monotonic()
        if left <= 0:
            timed_out = True
            break
        for pipe in select.select(list(open_pipes), [], [], min(left, 0.2))[0]:
            data = os.read(pipe, 65536)
            if data:
                chunks[pipe] += data[: max(0, request["output_bytes"] - len(chunks[pipe]))]
            else:
                open_pipes.discard(pipe)
        # A grandchild may hold the pipe open; the call ends with the child all the same.
        if open_pipes and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            for pipe in list(open_pipes):
                while select.select([pipe], [], [], 0)[0] and (data := os.read(pipe, 65536)):
                    if len(chunks[pipe]) >= request["output_bytes"]:
                        break
                    chunks[pipe] += data[: request["output_bytes"] - len(chunks[pipe])]
            break
    for pipe in pipes:
        os.close(pipe)
    return timed_out, {pipe: bytes(data).decode("utf-8", "replace") for pipe, data in chunks.items()}


def _child(request: dict, namespace: dict, directory: str, stdout: int, report: int) -> None:
    """Limit, run and report; never returns."""
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, stdout), (2, null), (3, report)):
        os.dup2(source, target)
    os.closerange(4, 256)
    memory = request["memory_mb"] * 2**20
    seconds = int(request["timeout_s"]) + 1
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0),
                         (resource.RLIMIT_FSIZE, 2**24), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(limit, (value, value))
    sys.stdin = io.StringIO()
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="replace")
    try:
        exec(compile(request["code"], "<string>", "exec"), namespace)
        outcome = "ok"
    except SystemExit as stop:
        outcome = f"error:SystemExit: {stop.code}"
    except MemoryError:
        namespace.clear()
        outcome = "error:out of memory"
    except BaseException as error:  # noqa: BLE001  (whatever model code raises is data)
        outcome = f"error:{str(error) or type(error).__name__}"
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    with contextlib.suppress(BaseException):
        os.write(3, outcome[:4096].encode("utf-8", "replace"))
    os._exit(0)


def _reap() -> None:
    """Collect grandchildren that were handed to this process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    serve()
