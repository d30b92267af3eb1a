"""The preloaded process (zygote) of the Python tool: it imports numpy, sympy and scipy once and forks a child per call.

The zygote never receives programs or their output: each child is a copy of it and could read them in its memory. The
evaluator sends three pipes per child, through which it reaches the child (`tir.tools.sandbox.supervisor`). Commands and
replies are packets on a socket, descriptor 0. The zygote sends the first reply when everything is loaded:

    (start)                            {"missing": {barrier: reason}, "scratch": directory that calls write, or ""}
    FORK, with code, stdout, report    {"refused": reason why no child was forked, or ""}
    CHECK                              {"ended": whether the child has ended or uses too much disk or threads}
    END                                {"status": wait status of the child, which is killed if it still runs; null if
                                        there was none, "excess": error text if it used too much, or ""}
    LOAD_SCIPY                         {}

A child is forked and restricted before its program arrives; this overlaps with the model's generation.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import types

from tir.common.files import Scratch, remove_tree
from tir.tools.sandbox import call, pages, usage
from tir.tools.sandbox.barriers import build
from tir.tools.sandbox.call import Settings

FORK, CHECK, END, LOAD_SCIPY = b"fork", b"check", b"end", b"load scipy"
REPLY_BYTES = 65536
PREAMBLE = """
import math
import numpy as np
import sympy
from sympy import symbols, Eq, solve
x, y, z = sympy.symbols('x y z')
"""
# Warm-up that every call would otherwise repeat: imports that programs often use, and tables that sympy builds for each
# kind of problem (150 ms for an integral to infinity). The most common kind comes last, because sympy's cache keeps a
# bounded number of recent results.
_MODULES = (
    "import random, itertools, functools, collections, fractions, decimal, statistics, datetime, string, re, heapq, "
    "cmath, numpy.random, scipy"
)
# These take half a second to import and make every later fork a fifth slower: loaded when a program first names scipy.
_SCIPY = "import scipy.integrate, scipy.interpolate, scipy.linalg, scipy.optimize, scipy.special, scipy.stats"
_WARM_UP = """
np.roots([1, -3, 2]), np.linalg.solve(np.eye(2), np.ones(2))
sympy.integrate(sympy.exp(-x), (x, 0, sympy.oo)), sympy.integrate(1 / (x**2 + 1), x), sympy.summation(x, (x, 1, y))
sympy.series(sympy.sin(x), x, 0, 4), sympy.Matrix([[2, 1], [1, 1]]).inv(), sympy.Matrix([[2, 1], [1, 3]]).eigenvals()
solve(x**2 < 4, x), sympy.solveset(x**2 - 3, x), solve(sympy.sin(x) - 1, x), sympy.nsolve(x**2 - 2, x, 1)
sympy.apart(1 / (x**2 - 1), x), sympy.simplify(sympy.sin(x)**2 + sympy.cos(x)**2)
sympy.limit((x**2 - 1) / (x - 1), x, 1), sympy.sympify("x**2 + 1"), sympy.nsimplify(0.5)
sympy.latex(x**2 / 3), sympy.N(sympy.pi, 20), sympy.diff(sympy.sin(x), x)
sympy.isprime(91), sympy.binomial(5, 2), sympy.gcd(12, 18), sympy.sqrt(8), sympy.Rational(1, 3), sympy.factorint(360)
sympy.expand((x + 1)**3), sympy.simplify((x**2 + 2*x) / x), sympy.factor(x**3 - 1), sympy.integrate(x**2, x)
solve(x**3 - x - 6, x)
solve(Eq(x**2 - 3*x + 2, 0), x), solve(x**2 - 2, x), solve([x + y - 1, x - y], [x, y])
"""
# Common problems that the warm-up has not solved; they show which pages such programs write to.
_REHEARSAL = """
solve(Eq(x**2 - 4*x + 3, 0), x), solve(2*x**2 + 9*x - 7, x), solve([2*x + y - 5, x - 3*y - 1], [x, y])
sympy.expand((x + 2)*(x - 7)), sympy.factor(x**2 + 8*x + 15), sympy.simplify((x**2 - 25) / (x - 5))
sympy.factorint(1001), sympy.diff(x**3 + sympy.sin(x), x), sympy.limit(sympy.sin(x) / x, x, 0)
sympy.integrate(x**3 - 2*x, (x, 0, 4)), np.roots([1, -7, 6])
"""
_PR_SET_CHILD_SUBREAPER = 36


def serve(settings: Settings) -> None:
    """Set up the barriers, preload libraries, and execute commands until the socket on descriptor 0 closes."""
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    zygote = Zygote(settings)

    def reply(**message) -> None:
        with contextlib.suppress(OSError):  # the evaluator has ended; the next read ends this loop
            control.send(json.dumps(message).encode())

    reply(missing=zygote.missing, scratch=str(zygote.scratch.path) if zygote.scratch else "")
    # ConnectionError: the evaluator was killed before it had read all replies.
    with contextlib.closing(zygote), contextlib.suppress(ConnectionError):
        while True:
            command, pipes, _, _ = socket.recv_fds(control, 16, 3)
            if command == FORK:
                reply(refused=zygote.fork(*pipes))
            elif command == CHECK:
                reply(ended=zygote.ended())
            elif command == END:
                reply(status=zygote.end(), excess=zygote.excess)
            elif command == LOAD_SCIPY:
                zygote.load_scipy()
                reply()
            else:
                return


class Zygote:
    """The preloaded process and its current child, which waits for a program or runs it.

    Attributes:
        missing: missing barriers, from name to reason.
        scratch: directory for calls without a /tmp of their own, else None.
        excess: error text if the last child used too much disk or too many threads (`usage.excess`), else "".
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._child: int | None = None
        self._status: int | None = None  # wait status of the last child
        self._directory = self.excess = ""
        # Without close_range in the C library a child closes descriptors one by one up to this limit: keep it low.
        resource.setrlimit(resource.RLIMIT_NOFILE, (call.DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self._barriers, self.missing = build(settings.without)
        self.scratch = None if self._barriers.namespaces else Scratch("tir-calls-")
        self._globals = _main().__dict__
        exec(PREAMBLE, self._globals)
        exec(_MODULES, {})
        # sympy draws this number at random, and dummies are sorted by it: fix it so that results do not vary.
        self._globals["sympy"].Dummy._base_dummy_index = 10**6
        _evaluate(_WARM_UP, self._globals)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._freeze_memory()
        self._written = pages.written_by(lambda: _evaluate(_REHEARSAL, self._globals), self._open_own)
        pages.merge(self._open_own)  # again: writes during the rehearsal's fork have split large pages

    def fork(self, code: int, stdout: int, report: int) -> str:
        """End the current child and fork the next one, which waits for its program (`call.run`).

        Returns:
            The reason why no child was forked, or "".
        """
        self.end()
        barriers, self._status, self.excess = self._barriers, None, ""
        try:
            if self.scratch:
                self._directory = tempfile.mkdtemp(dir=self.scratch.path)
                barriers = barriers.within(self._directory)
            self._child = barriers.namespaces.fork() if barriers.namespaces else os.fork()
        except OSError as error:
            return f"no process could be created: {error}"
        finally:
            if self._child != 0:
                for pipe in (code, stdout, report):
                    os.close(pipe)
        if self._child == 0:
            call.run(self._globals, barriers, code, stdout, report, self._settings, self._written)
        return ""

    def ended(self) -> bool:
        """Whether the child has ended or uses too much disk or threads; `end` must follow.

        Does not reap the child: `end` needs its process id to kill the processes it left behind.
        """
        if not self._child or os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        if self._directory:
            self.excess = usage.excess(self._child, self._directory)
            if self.excess:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self._child, signal.SIGKILL)  # at once, before it uses more
        return bool(self.excess)

    def end(self) -> int | None:
        """Kill the child and all processes of its call; returns the child's wait status."""
        if self._child:
            for kill in (os.kill, os.killpg):  # the child (with its PID namespace) and its process group
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self._child, signal.SIGKILL)
            _, self._status = os.waitpid(self._child, 0)
            self._child = None
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # reap the call's orphans, whose parent is now this process
                    pass
        if self._directory:
            remove_tree(self._directory)
            self._directory = ""
        return self._status

    def load_scipy(self) -> None:
        """Import the scipy subpackages that programs use."""
        self.end()
        exec(_SCIPY, {})
        self._freeze_memory()

    def close(self) -> None:
        """End the child and remove the scratch directory."""
        self.end()
        if self.scratch:
            self.scratch.remove()

    def _open_own(self, name: str):
        namespaces = self._barriers.namespaces
        return namespaces.open_own(name) if namespaces else open(f"/proc/self/{name}", "rb")

    def _freeze_memory(self) -> None:
        """Exempt all present objects from garbage collection, which would write to their pages, and merge the pages."""
        gc.collect()
        gc.freeze()
        pages.merge(self._open_own)


def _main() -> types.ModuleType:
    """A fresh `__main__` module for programs: pickle and others look up a program's definitions in `sys.modules`."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = sys.orig_argv = [""]
    sys.modules.pop("platform", None)  # it caches the machine's host name, which calls must not see
    return main


def _evaluate(lines: str, globals_: dict) -> None:
    """Evaluate each line and convert the results to text, which also initialises sympy's printers."""
    for line in lines.strip().splitlines():
        str(eval(line, dict(globals_)))
