"""Time of the Python sandbox, compared with an executor of upstream's design and with a fresh interpreter, in one run.

Upstream's executor (`evaluation/python_executor.py`) opens and closes a process pool for every call; the one here does
the same with the same library. Its parent imports numpy, scipy and sympy but runs no program, so every call repeats
sympy's first-use initialisation. A parent that has already run the same program is measured too; it is faster than
upstream. The cost of each barrier is measured by leaving it out.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.processes import descendants

from bench.table import Figure, interleaved, quantile
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox.zygote import PREAMBLE

PRINT, SYMPY = "print(6 * 7)", "print(solve(Eq(x**2 - 5*x + 6, 0), x))"
INTEGRAL = "print(sympy.integrate(x * sympy.exp(-2 * x), (x, 0, sympy.oo)))"
STATS = "from scipy.stats import binom; print(round(float(binom.pmf(3, 10, 0.5)), 6))"
MIXED = (
    PRINT,
    SYMPY,
    "print(np.linalg.inv(np.eye(30)).sum())",
    "raise ValueError('no')",
    "import os; os._exit(3)",
    "print('x' * 200_000)",
    "items = bytearray(10**8); print(len(items))",
    "open('f', 'w').write('x' * 10**6)",
    "import scipy.special; print(scipy.special.gamma(5))",
    "import ctypes; ctypes.string_at(0)",
)


def upstream_style(code: str) -> str:
    """Run one program in its own process pool (pebble, as upstream)."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=1) as pool:
        return next(pool.map(_execute, [code], timeout=5).result())


def _execute(code: str) -> str:
    output, globals_ = io.StringIO(), {}
    with contextlib.redirect_stdout(output):
        exec(PREAMBLE, globals_)
        exec(code, globals_)
    return output.getvalue().strip()


def fresh_interpreter(code: str) -> str:
    """Run one program with `python -c`."""
    done = subprocess.run([sys.executable, "-I", "-c", PREAMBLE + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def single_calls(rounds: int = 40) -> Iterator[Figure]:
    """Latency of single calls by each of the three methods, measured in turn."""
    exec(f"{PREAMBLE}\nfrom scipy import optimize", {})  # upstream's module imports these before its pools fork
    with PythonTool(workers=1) as tool:
        methods = {
            "sandbox": lambda code: tool.run(code).text,
            "pool per call (upstream's design)": upstream_style,
            "python -c": fresh_interpreter,
        }
        assert len({method(SYMPY) for method in methods.values()}) == 1, "the three methods print different results"
        yield from _compare("print", PRINT, methods, rounds)
        yield from _compare("sympy", SYMPY, methods, rounds)
        yield from _compare("sympy, integral to infinity", INTEGRAL, methods, rounds // 4)
        yield from _compare("scipy.stats", STATS, methods, rounds // 4)
        _execute(SYMPY)
        del methods["python -c"]
        yield from _compare("sympy, already run by the pool's parent", SYMPY, methods, rounds)


def _compare(name: str, code: str, methods: dict[str, Callable[[str], str]], rounds: int) -> Iterator[Figure]:
    """Latency of a program by each method, and the ratio of each to the first method."""
    calls = [lambda method=method: method(code) for method in methods.values()]
    times = dict(zip(methods, interleaved(calls, rounds), strict=True))
    first, *others = times
    for method, method_times in times.items():
        goal = "<= 25" if method == first and code == SYMPY else ""
        yield Figure(f"{name}, {method}", "p50 ms", 1000 * quantile(method_times, 0.5), goal)
        yield Figure(f"{name}, {method}", "p90 ms", 1000 * quantile(method_times, 0.9))
    for method in others:
        ratio = quantile(times[method], 0.5) / quantile(times[first], 0.5)
        goal = ">= 10" if methods[method] is upstream_style else ""
        yield Figure(f"{name}, {method} / {first}", "ratio of p50", ratio, goal)


def throughput(seconds: float = 10.0) -> Iterator[Figure]:
    """Programs per second with all cores busy, per second of wall time and of processor time.

    Wall time depends on other load of the machine. Processor time does not; it shows the rate of an idle core.
    """
    cores = len(os.sched_getaffinity(0))
    with PythonTool() as tool:
        tool.run_many([PRINT] * 4 * cores)
        for name, code in (("print", PRINT), ("sympy", SYMPY)):
            count, started, before = 0, time.perf_counter(), _processor_seconds()
            while time.perf_counter() - started < seconds / 2:
                tool.run_many([code] * 5 * cores)
                count += 5 * cores
            wall, processor = time.perf_counter() - started, _processor_seconds() - before
            goal = ">= 40" if name == "sympy" else ""
            subject = f"{name}, {tool.workers} workers on {cores} cores"
            yield Figure(subject, "calls/s per core", count / wall / cores, goal)
            yield Figure(subject, "calls per s of processor time", count / processor, goal)
    yield Figure("this machine during the run", "load average", os.getloadavg()[0])


def barriers(rounds: int = 40) -> Iterator[Figure]:
    """Latency of a call with all barriers and without each of them, measured in turn."""
    settings = {
        "all": (),
        "no namespaces": ("namespaces",),
        "no seccomp": ("seccomp",),
        "no landlock": ("landlock",),
        "resource limits only": ("namespaces", "seccomp", "landlock"),
    }
    with contextlib.ExitStack() as stack:
        tools = [
            stack.enter_context(PythonTool(workers=1, minimum_level=0, without=without))
            for without in settings.values()
        ]
        times = interleaved([lambda tool=tool: tool.run(PRINT) for tool in tools], rounds)
        for name, tool, tool_times in zip(settings, tools, times, strict=True):
            before = _processor_seconds()
            for _ in range(rounds):
                tool.run(PRINT)
            yield Figure(f"print, {name}", "p50 ms", 1000 * quantile(tool_times, 0.5))
            yield Figure(f"print, {name}", "ms of processor time", 1000 * (_processor_seconds() - before) / rounds)


def endurance(calls: int = 10_000) -> Iterator[Figure]:
    """Time drift, memory growth, and leftover processes and threads after many mixed calls on the same workers."""
    subject, pid = f"{calls:,} mixed calls", os.getpid()
    with PythonTool(recycle_after=calls) as tool:
        tool.run_many(list(MIXED) * 4 * tool.workers)  # warm up: each worker runs each program, which loads scipy
        processes, workers_mib, own_mib = len(descendants(pid)), _resident(descendants(pid)), _resident({pid})
        seconds_per_call = []
        for _ in range(10):
            started = time.perf_counter()
            tool.run_many([MIXED[number % len(MIXED)] for number in range(calls // 10)])
            seconds_per_call.append((time.perf_counter() - started) / (calls // 10))
        first, last = seconds_per_call[0], seconds_per_call[-1]
        yield Figure(subject, "ms per call, first tenth", 1000 * first)
        yield Figure(subject, "ms per call, last tenth", 1000 * last)
        yield Figure(subject, "last tenth / first tenth", last / first, "<= 1.1")
        yield Figure(subject, "growth of the workers, MiB", _resident(descendants(pid)) - workers_mib, "<= 20")
        yield Figure(subject, "growth of this process, MiB", _resident({pid}) - own_mib, "<= 20")
        # Compare numbers, not process ids: each waiting child is replaced after its call.
        yield Figure(subject, "additional processes", len(descendants(pid)) - processes, "0")
    yield Figure(subject, "processes left over", len(descendants(pid)), "0")
    yield Figure(subject, "threads left over", threading.active_count() - 1, "0")


def _processor_seconds() -> float:
    """User and system time of all present and past processes below this one."""
    ended, ticks = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _resident(pids: set[int]) -> float:
    """Resident memory of processes in MiB."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
