"""The child's side of a call: shut every door, wait for the code, run it, report.

Order matters. Descriptors are closed once the user namespace is written; Landlock forbids mounting, so it comes after
the mounts; seccomp forbids the calls all of the above are made of, so it comes last.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tir.subprocesses import end_with_parent
from tir.tools.sandbox import syscalls
from tir.tools.sandbox.barriers import Barriers
from tir.tools.sandbox.pages import Range, copy_until

THREADS, DESCRIPTORS, _FILE_BYTES = 64, 64, 2**24
_REPORT_CHARS = 4096
_KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
# Shared generators: what a call draws from them depends on its program alone, neither on chance nor on what ran before.
_GENERATORS = "random", "numpy.random", "sympy.core.random"
READY = b"ready\n"


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


def run(globals_: dict, barriers: Barriers, code: int, stdout: int, report: int, settings: Settings,
        written: Sequence[Range]) -> None:
    """Run code with everything shut; never returns.

    Args:
        globals_: the program's global names, already holding the preamble.
        barriers: what stands around it.
        code, stdout, report: descriptors. `code` gives a JSON string on a line, or nothing if there is no call after
            all. `READY` is written to `report` before the code runs, its outcome, a line too, after it.
        settings: its limits. The evaluator keeps the time; here CPU time is bounded, per core.
        written: memory to copy until the code comes.
    """
    try:
        _shut(barriers, code, stdout, report, settings)
        copy_until(4, written)
        with open(4, encoding="utf-8") as file:
            program = file.readline()
        if not program:
            os._exit(0)
        program = json.loads(program)
        for name in _GENERATORS:
            if name in sys.modules:
                sys.modules[name].seed(zlib.crc32(program.encode("utf-8", "surrogatepass")))
        os.write(3, READY)
    except BaseException as error:  # noqa: BLE001  (the parent must hear of it: this is not the code's fault)
        words = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_REPORT_CHARS]
        try:
            os.write(report, words)
        except OSError:  # it has become descriptor 3 by then
            os.write(3, words)
        finally:
            os._exit(1)
    printed = sys.stdout
    outcome = _execute(program, globals_)
    for stream in (sys.stdout, printed):  # code may put something else in its place
        with contextlib.suppress(BaseException):
            stream.flush()
    with contextlib.suppress(BaseException):
        os.write(3, json.dumps(outcome).encode() + b"\n")  # its end is the end of the call
    os._exit(0)


def _shut(barriers: Barriers, code: int, stdout: int, report: int, settings: Settings) -> None:
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if barriers.namespaces:
        barriers.namespaces.enter_call()
    os.chdir(barriers.directory)
    tempfile.tempdir = barriers.directory
    os.environ.clear()
    _only_own_descriptors(code, stdout, report)
    if barriers.landlock:
        barriers.landlock.apply()
    # The wall clock ends a call first; this stands behind it, for all threads together.
    memory, seconds = settings.memory_mb * 2**20, (int(settings.timeout_s) + 1) * len(os.sched_getaffinity(0))
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0,
              resource.RLIMIT_FSIZE: _FILE_BYTES, resource.RLIMIT_NOFILE: DESCRIPTORS, resource.RLIMIT_MEMLOCK: 0,
              resource.RLIMIT_MSGQUEUE: 0, resource.RLIMIT_SIGPENDING: 64}
    if barriers.namespaces and _KERNEL >= (5, 14):
        # Counted per user namespace, but not by older kernels and not without one: all that this user runs elsewhere (`usage`).
        limits[resource.RLIMIT_NPROC] = THREADS
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if barriers.seccomp:
        (barriers.seccomp if barriers.namespaces else syscalls.build_filter(os.getpid(), own_root=False)).load()


def _only_own_descriptors(code: int, stdout: int, report: int) -> None:
    """0: nothing, 1: the output, 2: nowhere, 3: the report, 4: the code, until it is read; no other."""
    null = os.open(os.devnull, os.O_RDWR)
    sources = [fcntl.fcntl(source, fcntl.F_DUPFD, 5) for source in (null, stdout, null, report, code)]  # no target is one
    for target, source in enumerate(sources):
        os.dup2(source, target)
    os.closerange(5, DESCRIPTORS)
    sys.stdin = io.StringIO()
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="replace")


def _execute(code: str, globals_: dict) -> dict[str, str]:
    """What came of the code: an empty object, or the type and text of what it raised."""
    try:
        exec(compile(code, "<string>", "exec", dont_inherit=True), globals_)
    except MemoryError as error:
        globals_.clear()
        return {"type": "MemoryError", "text": _text(error) or "out of memory"}
    except BaseException as error:  # noqa: BLE001  (whatever model code raises is data)
        return {"type": _kind(error), "text": _text(error)}
    return {}


def _kind(error: BaseException) -> str:
    """The name of an exception's type, whatever its metaclass makes of that."""
    return str(type.__dict__["__name__"].__get__(type(error)))


def _text(error: BaseException) -> str:
    """An exception's own words; a hostile `__str__` has none."""
    try:
        text = str.__str__(str(error))
    except BaseException:  # noqa: BLE001
        return ""
    half = _REPORT_CHARS // 2
    return text if len(text) <= _REPORT_CHARS else text[:half] + text[-half:]
