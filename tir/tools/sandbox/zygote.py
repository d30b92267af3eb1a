"""The preloaded worker behind the Python tool: it imports numpy, sympy and scipy once and forks a child per call.

It reads one JSON string (code) per line on descriptor 0 and answers one JSON object per line on descriptor 1. The first
line it writes says what stands around its calls; the others are answers of `tir.tools.sandbox.supervisor`:

    {"missing": {barrier: reason}}
    {"status": "ok" | "error" | "timeout" | "fault", "stdout": str, "type": str, "text": str}

The child of the next call is forked, and shut in, as soon as the last answer is out: a model thinks longer than that
takes, so a call waits for no part of it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource

from tir.tools.sandbox import call, pages
from tir.tools.sandbox.barriers import build
from tir.tools.sandbox.levels import BARRIERS
from tir.tools.sandbox.supervisor import Call, Settings

PREAMBLE = """
import math
import numpy as np
import sympy
from sympy import symbols, Eq, solve
x, y, z = sympy.symbols('x y z')
"""
# What a first call pays for and its successors would pay again: modules that code likes to import, and what sympy sets up
# for a kind of problem (an integral to infinity, 150 ms). The commonest kind comes last: sympy remembers a bounded number
# of results, the latest.
_MODULES = "import random, itertools, functools, collections, fractions, decimal, statistics, datetime, string, re, heapq, cmath, scipy"
# These take half a second, and every later fork a fifth longer: they are loaded when a program first names scipy.
_SCIPY = "import scipy.integrate, scipy.interpolate, scipy.linalg, scipy.optimize, scipy.special, scipy.stats"
_WARM_UP = """
np.roots([1, -3, 2]), np.linalg.solve(np.eye(2), np.ones(2))
sympy.integrate(sympy.exp(-x), (x, 0, sympy.oo)), sympy.integrate(1 / (x**2 + 1), x), sympy.summation(x, (x, 1, y))
sympy.series(sympy.sin(x), x, 0, 4), sympy.Matrix([[2, 1], [1, 1]]).inv(), sympy.Matrix([[2, 1], [1, 3]]).eigenvals()
solve(x**2 < 4, x), sympy.solveset(x**2 - 3, x), solve(sympy.sin(x) - 1, x), sympy.nsolve(x**2 - 2, x, 1)
sympy.apart(1 / (x**2 - 1), x), sympy.simplify(sympy.sin(x)**2 + sympy.cos(x)**2), sympy.limit((x**2 - 1) / (x - 1), x, 1)
sympy.sympify("x**2 + 1"), sympy.nsimplify(0.5), sympy.latex(x**2 / 3), sympy.N(sympy.pi, 20), sympy.diff(sympy.sin(x), x)
sympy.isprime(91), sympy.binomial(5, 2), sympy.gcd(12, 18), sympy.sqrt(8), sympy.Rational(1, 3), sympy.factorint(360)
sympy.expand((x + 1)**3), sympy.simplify((x**2 + 2*x) / x), sympy.factor(x**3 - 1), sympy.integrate(x**2, x), solve(x**3 - x - 6, x)
solve(Eq(x**2 - 3*x + 2, 0), x), solve(x**2 - 2, x), solve([x + y - 1, x - y], [x, y])
"""
# Other problems of the kinds that are asked most, for the pages that such programs write to.
_REHEARSAL = """
solve(Eq(x**2 - 4*x + 3, 0), x), solve(2*x**2 + 9*x - 7, x), solve([2*x + y - 5, x - 3*y - 1], [x, y])
sympy.expand((x + 2)*(x - 7)), sympy.factor(x**2 + 8*x + 15), sympy.simplify((x**2 - 25) / (x - 5)), sympy.factorint(1001)
sympy.diff(x**3 + sympy.sin(x), x), sympy.limit(sympy.sin(x) / x, x, 0), sympy.integrate(x**3 - 2*x, (x, 0, 4)), np.roots([1, -7, 6])
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
    exec(_MODULES, {})
    _evaluate(_WARM_UP, globals_)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    open_own = barriers.namespaces.open_own if barriers.namespaces else lambda name: open(f"/proc/self/{name}", "rb")
    _settle(open_own)
    written = pages.written_by(lambda: _evaluate(_REHEARSAL, globals_), open_own)
    pages.merge(open_own)  # again: what was written to while the rehearsal's process shared it came apart
    ahead = Call(globals_, barriers, settings, written)
    missing |= check_from_inside(ahead.run(json.dumps(_INSIDE)), missing)
    print(json.dumps({"missing": missing}), file=answers, flush=True)
    lean = True
    while True:
        ahead.end()
        ahead = Call(globals_, barriers, settings, written)
        if not (line := requests.readline()):
            return ahead.end()
        if lean and "scipy" in line:
            lean = False
            ahead.end()
            exec(_SCIPY, {})
            _settle(open_own)
            ahead = Call(globals_, barriers, settings, written)
        print(json.dumps(ahead.run(line)), file=answers, flush=True)


def _settle(open_own: pages.OpenOwn) -> None:
    """Make what is loaded cheap to share: a child's collector, whose marks would copy its pages, never looks at it."""
    gc.collect()
    gc.freeze()
    pages.merge(open_own)


def _evaluate(lines: str, globals_: dict) -> None:
    """Compute and print each line's expressions; printing sets things up too."""
    for line in lines.strip().splitlines():
        str(eval(line, dict(globals_)))


def check_from_inside(answer: dict, missing: dict[str, str]) -> dict[str, str]:
    """Barriers that were built and do not hold, by what the first call saw."""
    if answer["status"] != "ok":
        raise RuntimeError(f"the first call failed: {answer['text']}")
    seen = json.loads(answer["stdout"])
    broken = {"namespaces": seen["pid"] != 1 or seen["root"], "seccomp": seen["fork"],
              "landlock": seen["files"]}
    return {name: "it was built, but a call saw through it" for name in BARRIERS if name not in missing and broken[name]}
