"""The evaluator's handle on one preloaded worker process: start it, run programs in it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import asdict

from tir.common.files import remove_tree
from tir.common.subprocesses import ROOT
from tir.tools.sandbox import zygote
from tir.tools.sandbox.call import Settings
from tir.tools.sandbox.levels import BARRIERS
from tir.tools.sandbox.namespaces import system_files
from tir.tools.sandbox.supervisor import Call, make_answer

_FOLDERS, _FILES = 30, 5  # folders below a directory, and files in each, that the self-check tries to read
_STARTUP_S, _REPLY_S = 120.0, 45.0  # on a busy machine the set-up of a call may take 30 s
# PYTHONHASHSEED fixes the order of sets of strings, so that the same program prints the same in every worker.
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
# The only variable passed on from the caller's environment: an interpreter from a software module needs it to start.
_LIBRARIES = "LD_LIBRARY_PATH"
_PROGRAM = (
    f"import sys; sys.path[0] = sys.argv[1]; import json; from {zygote.__name__} import Settings, serve; "
    "del sys.path[0]; serve(Settings(**json.loads(sys.argv[2])))"
)
# The first program of every worker: it tries what the barriers must forbid. PRIVATE is a list of files.
_SELF_CHECK = """
import os, json
def can_read(path):
    try:
        return open(path, "rb").close() is None
    except OSError:
        return False
seen = {"private": [*filter(can_read, PRIVATE)], "pid": os.getpid()}
seen["root"] = os.path.exists("/proc/self") or os.path.exists("/etc/passwd")
try:
    if os.fork() == 0: os._exit(0)
    seen["fork"] = True
except OSError:
    seen["fork"] = False
try:
    os.listdir("/")  # allowed in a separate root; only Landlock forbids it
    seen["listed"] = True
except OSError:
    seen["listed"] = False
print(json.dumps(seen))
"""


class Worker:
    """One worker process with a child that waits for the next call; used by one thread at a time.

    Args:
        settings: limits of its calls.

    Attributes:
        missing: missing barriers, from name to reason (`tir.tools.sandbox.levels`).
        calls: number of programs run so far.

    Raises:
        OSError: the worker did not start, or died (`ask`); the text gives the reason.
    """

    def __init__(self, settings: Settings):
        self.calls = 0
        self._settings, self._scipy_loaded = settings, False
        self._next_call: Call | None = None
        self._unread = 0  # number of replies not read yet
        self._remove_scratch: Callable[[], object] = lambda: None
        self._control, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with worker_end:
            self._process = subprocess.Popen(
                # Not -I, which would also ignore PYTHONHASHSEED.
                [sys.executable, "-s", "-c", _PROGRAM, str(ROOT), json.dumps(asdict(settings))],
                stdin=worker_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=_ENVIRONMENT
                | {"TMPDIR": tempfile.gettempdir()}
                | {name: os.environ[name] for name in [_LIBRARIES] if name in os.environ},
            )
        try:
            self._unread = 1
            started = self._last_reply(_STARTUP_S)
            # The worker removes its scratch directory when it ends; this process does so if the worker was killed.
            if started["scratch"]:
                self._remove_scratch = weakref.finalize(self, remove_tree, started["scratch"])
            self.missing: dict[str, str] = started["missing"]
            self._fork()
            self.missing |= _failed_barriers(self._run(f"PRIVATE = {_private_files()!r}{_SELF_CHECK}"), self.missing)
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, code: str) -> dict[str, str]:
        """Run a program and return its answer (`tir.tools.sandbox.supervisor`)."""
        self.calls += 1
        if not self._scipy_loaded and "scipy" in code:
            self._scipy_loaded = True
            self._command(zygote.LOAD_SCIPY, _STARTUP_S)
            self._fork()
        return self._run(code)

    def _run(self, code: str) -> dict[str, str]:
        """Run a program in the waiting child, then request the next child, which also ends the old one."""
        refused = self._last_reply(_REPLY_S)["refused"]
        answer = (
            make_answer("fault", text=refused)
            if refused
            else self._next_call.run(code, lambda: self._command(zygote.CHECK)["ended"], self._end)
        )
        try:
            self._fork()
        except OSError:  # the answer is still valid; the next call finds this worker dead and starts another
            self.kill()
        return answer

    def _end(self) -> int | str | None:
        """End the child; returns its wait status, or the error text if it used too much disk or too many threads."""
        reply = self._command(zygote.END)
        return reply["excess"] or reply["status"]

    def _fork(self) -> None:
        """Request the child of the next call without waiting for the reply: the fork overlaps with generation."""
        if self._next_call:
            self._next_call.close()
        self._next_call = Call(self._settings)
        self._send(zygote.FORK, self._next_call.child_ends)
        self._next_call.close_child_ends()

    def _command(self, command: bytes, timeout_s: float = _REPLY_S) -> dict:
        self._send(command)
        return self._last_reply(timeout_s)

    def _send(self, command: bytes, descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [command], list(descriptors))
        except OSError as error:
            raise self._died() from error
        self._unread += 1

    def _last_reply(self, timeout_s: float) -> dict:
        """Read the replies to all commands sent and return the last; kills a worker that does not reply in time."""
        reply = b""
        self._control.settimeout(timeout_s)
        for _ in range(self._unread):
            try:
                reply = self._control.recv(zygote.REPLY_BYTES)
            except TimeoutError as error:
                self.kill()
                raise OSError(f"no answer within {timeout_s:g} s") from error
            except ConnectionError:
                reply = b""
            if not reply:
                raise self._died()
            self._unread -= 1
        return json.loads(reply)

    def _died(self) -> OSError:
        """An error with the worker's exit status and the last line of its error output."""
        status = self._wait()
        os.set_blocking(self._process.stderr.fileno(), False)
        errors = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        return OSError(f"exit status {status}" + (f": {errors.splitlines()[-1]}" if errors else ""))

    def kill(self) -> None:
        """End the worker and all its children at once."""
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Ask the worker to exit and wait for it; between calls it exits at once."""
        with contextlib.suppress(OSError):
            # shutdown, not close: a fork of this process may hold a copy of the socket and keep it open
            self._control.shutdown(socket.SHUT_RDWR)
        self._wait()
        self._release()

    def _wait(self) -> int:
        """Wait for the worker to exit, kill it if it does not; returns its exit status."""
        try:
            return self._process.wait(_REPLY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _release(self) -> None:
        if self._next_call:
            self._next_call.close()
        self._control.close()
        self._process.stderr.close()
        self._remove_scratch()


def _private_files() -> list[str]:
    """Some files that no call may read: those in the working directory, in the home directory, and one level below."""
    readable = tuple(path if os.path.isfile(path) else f"{path}/" for path in system_files())
    found: list[str] = []
    for top in map(os.path.realpath, (os.curdir, os.path.expanduser("~"))):
        with contextlib.suppress(OSError):
            below = [entry.path for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
            for folder in (top, *below[:_FOLDERS]):
                with contextlib.suppress(OSError):
                    files = [entry.path for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
                    found += [path for path in files if not path.startswith(readable)][:_FILES]
    return found


def _failed_barriers(answer: dict, missing: dict[str, str]) -> dict[str, str]:
    """Barriers that were built but do not hold according to the answer to `_SELF_CHECK`."""
    if answer["status"] != "ok":
        raise OSError(f"the self-check failed: {answer['text']}")
    seen = json.loads(answer["stdout"])
    private = bool(seen["private"])
    failed = {
        "namespaces": seen["pid"] != 1 or seen["root"] or private,
        "seccomp": seen["fork"],
        "landlock": seen["listed"] or private,
    }
    what = (
        f"it was set up, but the self-check got past it{' and read ' if private else ''}{''.join(seen['private'][:1])}"
    )
    return {name: what for name in BARRIERS if name not in missing and failed[name]}
