"""The child process of a call: restrict itself, wait for the program, run it, report the outcome.

The order of the restrictions matters. Descriptors are closed after the user namespace's maps are written. Landlock
forbids mounting, so it follows the mounts. Seccomp forbids the system calls of all other steps, so it comes last.
"""

from __future__ import annotations

import ast
import atexit
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
import textwrap
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tir.common.subprocesses import end_with_parent
from tir.tools.sandbox import syscalls
from tir.tools.sandbox.barriers import Barriers
from tir.tools.sandbox.pages import Range, copy_until

THREADS, DESCRIPTORS, _FILE_BYTES = 64, 64, 2**24
_REPORT_CHARS = 4096
_KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
# Global random generators, seeded from the program: the same program draws the same numbers in every call.
_GENERATORS = "random", "numpy.random", "sympy.core.random"
READY = b"ready\n"
# As they are before a program runs: it can replace them in their modules.
_write, _exit, _to_json, _suppressed = os.write, os._exit, json.dumps, contextlib.suppress
_FENCED = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w.+:/-]*|\{[^}`\n]*\})"  # ```python, ```{.python .numberLines}
    r"(?:[ \t]+(?:[\w-]+=\"[^\"`\n]*\"|\{[^}`\n]*\}))*[ \t]*\n"  # title="a.py" {.numberLines}
    r"(.*?)(?:^[ \t]*\1[ \t]*$|\1\s*\Z|\Z)",
    re.DOTALL | re.MULTILINE,
)
_PYTHON = re.compile(r"\{?[ \t]*\.?(?:python|py)[\d.]*(?:[\s:,}].*)?", re.IGNORECASE)
_PROMPT = re.compile(r"^>>>(?!>)", re.MULTILINE)  # four or more are a conflict marker of Git
_PROMPTED = re.compile(r"^(?:>>>(?!>) ?|\.\.\.(?: |$))(.*)$", re.MULTILINE)
_LAST_FENCE = re.compile(r"\n[ \t]*(?:```+|~~~+)\s*\Z")
_ONE_LINE = re.compile(r"\A\s*(`+)(?:(?:python|py)\b)?(.*?)\1\s*\Z", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """Limits of a call.

    Attributes:
        timeout_s: wall-clock seconds.
        memory_mb: MiB of address space.
        output_bytes: bytes of output kept, half from each end.
        without: barriers to leave out although the kernel has them; for tests.
        unwrap: whether code that is no Python as written runs without its Markdown fence, indentation or prompts.
        stderr: whether standard error goes where standard output goes; otherwise it is dropped.
    """

    timeout_s: float
    memory_mb: int
    output_bytes: int
    without: tuple[str, ...] = ()
    unwrap: bool = False
    stderr: bool = False


class _Output(io.TextIOWrapper):
    """Passes on each line at once, and each of the first writes: a crash or the time limit loses nothing.

    Later writes wait for the end of their line, because a program may print a million numbers on one.
    """

    _at_once = 1000

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._at_once:
            self._at_once -= 1
            self.flush()
        return written


def run(
    globals_: dict,
    barriers: Barriers,
    code: int,
    stdout: int,
    report: int,
    settings: Settings,
    written: Sequence[Range],
) -> None:
    """Run one program behind all barriers; never returns.

    Args:
        globals_: the program's global names, including those of the preamble.
        barriers: the barriers to enter.
        code, stdout, report: pipe descriptors. `code` delivers the program as a JSON string on one line, or ends
            without data if no call follows. `report` receives `READY` before the program runs, and one line with its
            outcome afterwards.
        settings: limits. The evaluator enforces the wall-clock limit; this process limits CPU time, per core.
        written: memory pages to copy while waiting for the program.
    """
    try:
        _restrict(barriers, code, stdout, report, settings)
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
    except BaseException as error:  # noqa: BLE001  (a failed set-up is not the program's fault: report it)
        message = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_REPORT_CHARS]
        try:
            os.write(report, message)
        except OSError:  # `report` may already have been moved to descriptor 3
            os.write(3, message)
        finally:
            os._exit(1)
    original_stdout = sys.stdout
    outcome = _execute(program, globals_, settings.unwrap)
    _finish()
    for stream in (sys.stdout, original_stdout):  # the program may have replaced sys.stdout
        with _suppressed(BaseException):
            stream.flush()
    status = 1  # without a report, 0 would say that the program ended itself without an error
    with _suppressed(BaseException):
        _write(3, _to_json(outcome).encode() + b"\n")  # the newline tells the evaluator that the call has ended
        status = 0
    _exit(status)


def _restrict(barriers: Barriers, code: int, stdout: int, report: int, settings: Settings) -> None:
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if barriers.namespaces:
        barriers.namespaces.enter_call()
    os.chdir(barriers.directory)
    tempfile.tempdir = barriers.directory
    os.environ.clear()
    _only_own_descriptors(code, stdout, report, settings.stderr)
    if barriers.landlock:
        barriers.landlock.apply()
    # The evaluator's wall-clock limit is reached first; this CPU limit covers all threads together as a second bound.
    memory, seconds = settings.memory_mb * 2**20, (int(settings.timeout_s) + 1) * len(os.sched_getaffinity(0))
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if barriers.namespaces and _KERNEL >= (5, 14):
        # Kernels from 5.14 count this limit per user namespace. Elsewhere it would count all processes of the user, so
        # `usage` checks the number of threads instead.
        limits[resource.RLIMIT_NPROC] = THREADS
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if barriers.seccomp:
        (barriers.seccomp if barriers.namespaces else syscalls.build_filter(os.getpid(), own_root=False)).load()


def _only_own_descriptors(code: int, stdout: int, report: int, stderr: bool) -> None:
    """Keep five descriptors: 0 /dev/null, 1 the output, 2 the output or /dev/null, 3 the report, 4 the program."""
    null = os.open(os.devnull, os.O_RDWR)
    # Duplicate to 5 and above first, so that no source is overwritten as a target.
    streams = (null, stdout, stdout if stderr else null, report, code)
    sources = [fcntl.fcntl(source, fcntl.F_DUPFD, 5) for source in streams]
    for target, source in enumerate(sources):
        os.dup2(source, target)
    os.closerange(5, DESCRIPTORS)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = _Output(
        os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="replace", line_buffering=True
    )
    if stderr:
        sys.stderr = sys.__stderr__ = sys.stdout  # one buffer keeps the order of what is written


def _execute(code: str, globals_: dict, unwrap: bool) -> dict[str, str]:
    """Run a program; returns {}, or the type and message of the exception it raised. A clean exit is no exception."""
    atexit._clear()  # of the preloaded libraries
    try:
        exec(_compiled(code, unwrap), globals_)
    except SystemExit as error:
        with contextlib.suppress(BaseException):  # a subclass can make `code` raise
            if error.code is None or (isinstance(error.code, int) and error.code == 0):
                return {}
        return {"type": "SystemExit", "text": _message(error)}
    except MemoryError as error:
        globals_.clear()
        return {"type": "MemoryError", "text": _message(error) or "out of memory"}
    except BaseException as error:  # noqa: BLE001  (any exception of model code is data)
        return {"type": _type_name(error), "text": _message(error)}
    return {}


def _finish() -> None:
    """What Python does when a program ends: wait for its threads, and call what it registered with `atexit`."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # as multiprocessing's processes do; it also ends the threads of executors
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()


def _compiled(code: str, unwrap: bool):
    """A program's code; raises `SyntaxError` (among others) if it is no Python."""
    try:
        return compile(code, "<string>", "exec", dont_inherit=True)
    except SyntaxError:
        inner = _unwrapped(code) if unwrap else code
        if inner == code or not inner.strip():
            raise
    return compile(inner, "<string>", "exec", dont_inherit=True)


def _unwrapped(code: str) -> str:
    """The code in Markdown fences, if there are any, without common indentation and without an interpreter's prompts.

    Several fenced blocks are joined; if some are marked as Python, only these. A block that is not closed ends with the
    code; an opening fence may be missing. Of an interactive session, lines without a prompt are the interpreter's
    answers. If there is code before the first fence or prompt, the fence or prompt stays: it may be in a string, and
    without that code the rest would be another program.
    """
    code = code.removeprefix("\ufeff")
    fenced = [match for match in _FENCED.finditer(code) if match[3].strip()]
    if fenced and not _is_prose(code[: fenced[0].start()]):
        return code
    marked = [match[3] for match in fenced if _PYTHON.fullmatch(match[2])]
    blocks = marked or [match[3] for match in fenced] or [block for _, block in _ONE_LINE.findall(code)]
    code = "\n".join(map(textwrap.dedent, blocks)) if blocks else _LAST_FENCE.sub("", code)
    code = textwrap.dedent(code).strip("\r\n")
    prompt = _PROMPT.search(code)
    return "\n".join(_PROMPTED.findall(code)) if prompt and _is_prose(code[: prompt.start()]) else code


def _is_prose(text: str) -> bool:
    """Whether text is no code: blank, sentences, a heading (for Python a comment), or a single word or number."""
    if "'''" in text or '"""' in text:
        return False
    try:
        statements = ast.parse(textwrap.dedent(text)).body
    except SyntaxError:
        return True
    return all(isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call) for node in statements)


def _type_name(error: BaseException) -> str:
    """The name of an exception's type; a metaclass cannot replace it."""
    return str(type.__dict__["__name__"].__get__(type(error)))


def _message(error: BaseException) -> str:
    """The message of an exception; "" if its `__str__` raises."""
    try:
        text = str.__str__(str(error))
    except BaseException:  # noqa: BLE001
        return ""
    half = _REPORT_CHARS // 2
    return text if len(text) <= _REPORT_CHARS else text[:half] + text[-half:]
