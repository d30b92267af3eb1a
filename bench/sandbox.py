"""The Python sandbox beside an executor built the way upstream's is and beside a fresh interpreter, in one run.

Upstream's executor (`evaluation/python_executor.py`) opens a process pool for every call and closes it again; so does the
one here, with the same library. Its parent imports numpy, scipy and sympy and runs no program itself, so what sympy sets
up on first use, every call sets up again. A parent that has already run the very program is measured too: that is kinder
than upstream. What each barrier costs is measured by leaving it out.
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

from processes import descendants

from bench.table import Figure, interleaved, quantile
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox.zygote import PREAMBLE

PRINT, SYMPY = "print(6 * 7)", "print(solve(Eq(x**2 - 5*x + 6, 0), x))"
INTEGRAL = "print(sympy.integrate(x * sympy.exp(-2 * x), (x, 0, sympy.oo)))"
STATS = "from scipy.stats import binom; print(round(float(binom.pmf(3, 10, 0.5)), 6))"
MIXED = (PRINT, SYMPY, "print(np.linalg.inv(np.eye(30)).sum())", "raise ValueError('no')", "import os; os._exit(3)",
         "print('x' * 200_000)", "items = bytearray(10**8); print(len(items))", "open('f', 'w').write('x' * 10**6)",
         "import scipy.special; print(scipy.special.gamma(5))", "import ctypes; ctypes.string_at(0)")


def upstream_style(code: str) -> str:
    """One program in a pool made for it (pebble, as upstream)."""
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
    """One program in `python -c`."""
    done = subprocess.run([sys.executable, "-I", "-c", PREAMBLE + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def single_calls(rounds: int = 40) -> Iterator[Figure]:
    """Latency of one call at a time, the three ways in turn."""
    exec(f"{PREAMBLE}\nfrom scipy import optimize", {})  # what upstream's module imports before its pools fork
    with PythonTool(workers=1) as tool:
        ways = {"sandbox": lambda code: tool.run(code).text, "pool per call (upstream's way)": upstream_style,
                "python -c": fresh_interpreter}
        assert len({way(SYMPY) for way in ways.values()}) == 1, "the three disagree"
        yield from _in_turn("print", PRINT, ways, rounds)
        yield from _in_turn("sympy", SYMPY, ways, rounds)
        yield from _in_turn("sympy, integral to infinity", INTEGRAL, ways, rounds // 4)
        yield from _in_turn("scipy.stats", STATS, ways, rounds // 4)
        _execute(SYMPY)
        del ways["python -c"]
        yield from _in_turn("sympy, pool's parent has run it", SYMPY, ways, rounds)


def _in_turn(name: str, code: str, ways: dict[str, Callable[[str], str]], rounds: int) -> Iterator[Figure]:
    """Latency of each way to run a program, and how many times that of the first the others are."""
    found = dict(zip(ways, interleaved([lambda way=way: way(code) for way in ways.values()], rounds), strict=True))
    ours, *others = found
    for way, times in found.items():
        yield Figure(f"{name}, {way}", "p50 ms", 1000 * quantile(times, 0.5), "<= 25" if way == ours and code == SYMPY else "")
        yield Figure(f"{name}, {way}", "p90 ms", 1000 * quantile(times, 0.9))
    for way in others:
        ratio = quantile(found[way], 0.5) / quantile(found[ours], 0.5)
        yield Figure(f"{name}, {way} / {ours}", "ratio of p50", ratio, ">= 10" if ways[way] is upstream_style else "")


def throughput(seconds: float = 10.0) -> Iterator[Figure]:
    """Programs per second with all cores busy, by the clock and by the processor time they took.

    The clock counts what else the machine does; processor time does not, so it says what a core of one's own would do.
    """
    cores = len(os.sched_getaffinity(0))
    with PythonTool() as tool:
        tool.run_many([PRINT] * 4 * cores)
        for name, code in (("print", PRINT), ("sympy", SYMPY)):
            count, started, before = 0, time.perf_counter(), _processor_seconds()
            while time.perf_counter() - started < seconds / 2:
                tool.run_many([code] * 5 * cores)
                count += 5 * cores
            clock, processor = time.perf_counter() - started, _processor_seconds() - before
            goal = ">= 40" if name == "sympy" else ""
            yield Figure(f"{name}, {tool.workers} workers on {cores} cores", "calls/s per core", count / clock / cores, goal)
            yield Figure(f"{name}, {tool.workers} workers on {cores} cores", "calls per s of processor time", count / processor, goal)
    yield Figure("this machine during the run", "load average", os.getloadavg()[0])


def barriers(rounds: int = 40) -> Iterator[Figure]:
    """What each barrier adds to a call: a sandbox with it beside one without, in turn."""
    settings = {"all": (), "no namespaces": ("namespaces",), "no seccomp": ("seccomp",), "no landlock": ("landlock",),
                "resource limits only": ("namespaces", "seccomp", "landlock")}
    with contextlib.ExitStack() as stack:
        tools = [stack.enter_context(PythonTool(workers=1, minimum_level=0, without=without)) for without in settings.values()]
        times = interleaved([lambda tool=tool: tool.run(PRINT) for tool in tools], rounds)
        for name, tool, found in zip(settings, tools, times, strict=True):
            before = _processor_seconds()
            for _ in range(rounds):
                tool.run(PRINT)
            yield Figure(f"print, {name}", "p50 ms", 1000 * quantile(found, 0.5))
            yield Figure(f"print, {name}", "ms of processor time", 1000 * (_processor_seconds() - before) / rounds)


def soak(calls: int = 10_000) -> Iterator[Figure]:
    """Mixed calls, good and hostile, on workers that are not recycled: drift, memory, and what is left over."""
    with PythonTool(recycle_after=calls) as tool:
        tool.run_many(list(MIXED) * 4 * tool.workers)  # each worker meets each kind: the first scipy loads it
        before, growing = len(descendants(os.getpid())), [_resident(descendants(os.getpid()))]
        server = _resident({os.getpid()})
        slices = []
        for _ in range(10):
            started = time.perf_counter()
            tool.run_many([MIXED[number % len(MIXED)] for number in range(calls // 10)])
            slices.append((time.perf_counter() - started) / (calls // 10))
            growing.append(_resident(descendants(os.getpid())))
        yield Figure(f"{calls:,} mixed calls", "ms per call, first tenth", 1000 * slices[0])
        yield Figure(f"{calls:,} mixed calls", "ms per call, last tenth", 1000 * slices[-1])
        yield Figure(f"{calls:,} mixed calls", "last tenth / first tenth", slices[-1] / slices[0], "<= 1.1")
        yield Figure(f"{calls:,} mixed calls", "growth of the workers, MiB", growing[-1] - growing[0], "<= 20")
        yield Figure(f"{calls:,} mixed calls", "growth of this process, MiB", _resident({os.getpid()}) - server, "<= 20")
        # By number: the children that wait for their call are others than before.
        yield Figure(f"{calls:,} mixed calls", "processes more than before", len(descendants(os.getpid())) - before, "0")
    yield Figure(f"{calls:,} mixed calls", "processes left over", len(descendants(os.getpid())), "0")
    yield Figure(f"{calls:,} mixed calls", "threads left over", threading.active_count() - 1, "0")


def _processor_seconds() -> float:
    """User and system time of all that ever ran below this process; workers are replaced now and then."""
    gone, ticks = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return gone.ru_utime + gone.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _resident(pids: set[int]) -> float:
    """Resident memory of processes, MiB."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
