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
# What a first call pays for and its successors would pay again: sympy's caches, and modules that code likes to import.
_WARM_UP = """
import scipy, random, itertools, functools, collections, fractions, decimal, statistics, datetime, string, re
solve(Eq(x**2 - 3*x + 2, 0), x); solve(x**2 - 2, x); solve([x + y - 1, x - y], [x, y]); sympy.factor(x**3 - 1); sympy.simplify(x / x)
sympy.integrate(x**2, x); sympy.factorint(360); sympy.Rational(1, 3)
"""
# A program of the most common kind, for the pages such a program writes to.
_REHEARSAL = "str(solve(Eq(x**2 - 4*x + 3, 0), x))"
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
    exec(_WARM_UP, dict(globals_))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Objects that live on are never looked at by a child's collector, whose marks would copy their pages.
    gc.collect()
    gc.freeze()
    open_own = barriers.namespaces.open_own if barriers.namespaces else lambda name: open(f"/proc/self/{name}", "rb")
    pages.merge(open_own)
    written = pages.written_by(lambda: exec(_REHEARSAL, globals_), open_own)
    ahead = Call(globals_, barriers, settings, written)
    missing |= check_from_inside(ahead.run(json.dumps(_INSIDE)), missing)
    print(json.dumps({"missing": missing}), file=answers, flush=True)
    while True:
        ahead.end()
        ahead = Call(globals_, barriers, settings, written)
        if not (line := requests.readline()):
            return ahead.end()
        print(json.dumps(ahead.run(line)), file=answers, flush=True)


def check_from_inside(answer: dict, missing: dict[str, str]) -> dict[str, str]:
    """Barriers that were built and do not hold, by what the first call saw."""
    if answer["status"] != "ok":
        raise RuntimeError(f"the first call failed: {answer['text']}")
    seen = json.loads(answer["stdout"])
    broken = {"namespaces": seen["pid"] != 1 or seen["root"], "seccomp": seen["fork"],
              "landlock": seen["files"]}
    return {name: "it was built, but a call saw through it" for name in BARRIERS if name not in missing and broken[name]}
