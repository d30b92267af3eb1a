"""The preloaded process behind the Python tool: it imports numpy, sympy and scipy once and forks a child per call.

It never sees a program or what one printed: a child is a copy of this process, and would find them in its memory. The
evaluator gives it three pipes per child and talks to the child through them (`tir.tools.sandbox.supervisor`). Commands
and replies are packets of a socket, which is descriptor 0; the first reply comes unasked, once all is loaded:

    (start)                            {"missing": {barrier: reason}, "scratch": directory of what calls write, or ""}
    FORK, with code, stdout, report    {"refused": why there is no child, or ""}
    LOOK                               {"ended": whether the child is no more, or has taken too much}
    END, of the child if it still runs {"status": its wait status; null if there was none,
                                        "excess": what it took too much of, as an error's words, or ""}
    LOAD_SCIPY                         {}

A child is forked, and shut in, before its program is there: a model thinks longer than that takes.
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

from tir.tools.sandbox import call, pages, usage
from tir.tools.sandbox.barriers import build
from tir.tools.sandbox.call import Settings
from tir.tools.sandbox.scratch import remove

FORK, LOOK, END, LOAD_SCIPY = b"fork", b"look", b"end", b"load scipy"
REPLY_BYTES = 65536
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
_MODULES = "import random, itertools, functools, collections, fractions, decimal, statistics, datetime, string, re, heapq, cmath, numpy.random, scipy"
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
_PR_SET_CHILD_SUBREAPER = 36


def serve(settings: Settings) -> None:
    """Build the barriers, preload, obey until the socket on descriptor 0 closes."""
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    zygote = Zygote(settings)

    def reply(**words) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more, as the next read will tell
            control.send(json.dumps(words).encode())

    reply(missing=zygote.missing, scratch=zygote.scratch)
    # A reset is an end as well: the evaluator was killed, and had not read all replies.
    with contextlib.closing(zygote), contextlib.suppress(ConnectionError):
        while True:
            command, pipes, _, _ = socket.recv_fds(control, 16, 3)
            if command == FORK:
                reply(refused=zygote.fork(*pipes))
            elif command == LOOK:
                reply(ended=zygote.ended())
            elif command == END:
                reply(status=zygote.end(), excess=zygote.excess)
            elif command == LOAD_SCIPY:
                zygote.load_scipy()
                reply()
            else:
                return


class Zygote:
    """The preloaded process, and the child of it that runs or waits for a call.

    Attributes:
        missing: barriers that could not be built, with reasons.
        scratch: where calls write if they have no /tmp of their own, else "".
        excess: what the last child took too much of (`usage.excess`), or "".
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._child: int | None = None
        self._status: int | None = None  # of the last child
        self._directory = self.excess = ""
        # A child closes all descriptors up to this bound one by one where the C library knows nothing better.
        resource.setrlimit(resource.RLIMIT_NOFILE, (call.DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self._barriers, self.missing = build(settings.without)
        self.scratch = "" if self._barriers.namespaces else tempfile.mkdtemp(prefix="tir-calls-")
        self._globals = _main().__dict__
        exec(PREAMBLE, self._globals)
        exec(_MODULES, {})
        self._globals["sympy"].Dummy._base_dummy_index = 10**6  # drawn by chance otherwise, and part of how dummies sort
        _evaluate(_WARM_UP, self._globals)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._settle()
        self._written = pages.written_by(lambda: _evaluate(_REHEARSAL, self._globals), self._open_own)
        pages.merge(self._open_own)  # again: what was written to while the rehearsal's process shared it came apart

    def fork(self, code: int, stdout: int, report: int) -> str:
        """End the child there is, fork the next one, which waits for its program (`call.run`).

        Returns:
            Why there is none, or "".
        """
        self.end()
        barriers, self._status, self.excess = self._barriers, None, ""
        try:
            if self.scratch:
                self._directory = tempfile.mkdtemp(dir=self.scratch)
                barriers = barriers.within(self._directory)
            self._child = barriers.namespaces.fork() if barriers.namespaces else os.fork()
        except OSError as error:
            return f"no process could be made: {error}"
        finally:
            if self._child != 0:
                for pipe in (code, stdout, report):
                    os.close(pipe)
        if self._child == 0:
            call.run(self._globals, barriers, code, stdout, report, self._settings, self._written)
        return ""

    def ended(self) -> bool:
        """Whether no child runs, or one that has taken too much, which `end` must follow.

        One that has ended keeps its number, by which `end` finds what it left.
        """
        if not self._child or os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        if self._directory:
            self.excess = usage.excess(self._child, self._directory)
            if self.excess:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self._child, signal.SIGKILL)  # at once: it takes more with every moment
        return bool(self.excess)

    def end(self) -> int | None:
        """Kill the child and all that is left of its call; its wait status."""
        if self._child:
            for kill in (os.kill, os.killpg):  # its session and, in a PID namespace, all others there
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self._child, signal.SIGKILL)
            _, self._status = os.waitpid(self._child, 0)
            self._child = None
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # orphans that were handed to this process
                    pass
        if self._directory:
            remove(self._directory)
            self._directory = ""
        return self._status

    def load_scipy(self) -> None:
        """Load what programs that name scipy import."""
        self.end()
        exec(_SCIPY, {})
        self._settle()

    def close(self) -> None:
        """Leave nothing behind."""
        self.end()
        if self.scratch:
            remove(self.scratch)

    def _open_own(self, name: str):
        namespaces = self._barriers.namespaces
        return namespaces.open_own(name) if namespaces else open(f"/proc/self/{name}", "rb")

    def _settle(self) -> None:
        """Make what is loaded cheap to share: a child's collector, whose marks would copy its pages, never looks at it."""
        gc.collect()
        gc.freeze()
        pages.merge(self._open_own)


def _main() -> types.ModuleType:
    """A module for programs to be: pickle and the like look up what a program defines in `sys.modules`."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = sys.orig_argv = [""]
    sys.modules.pop("platform", None)  # it remembers the machine's name, which a call does not know
    return main


def _evaluate(lines: str, globals_: dict) -> None:
    """Compute and print each line's expressions; printing sets things up too."""
    for line in lines.strip().splitlines():
        str(eval(line, dict(globals_)))
