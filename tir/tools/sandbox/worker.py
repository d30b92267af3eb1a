"""The evaluator's handle on one preloaded worker: start it, ask it, end it."""

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
from pathlib import Path

from tir.tools.sandbox import zygote
from tir.tools.sandbox.call import Settings
from tir.tools.sandbox.levels import BARRIERS
from tir.tools.sandbox.scratch import remove
from tir.tools.sandbox.supervisor import Call, make_answer

_ROOT = Path(__file__).resolve().parents[3]
_STARTUP_S, _GRACE_S = 120.0, 45.0  # a call may take 30 s to be set up where the machine is busy
# The same program prints the same: sets of strings have one order in every worker.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0"}
# Of the caller's environment only this passes, to the worker: an interpreter from a software module needs it to start.
_LIBRARIES = "LD_LIBRARY_PATH"
_PROGRAM = f"import sys, json; sys.path.insert(0, sys.argv[1]); from {zygote.__name__} import Settings, serve; " \
           "del sys.path[0]; serve(Settings(**json.loads(sys.argv[2])))"
# Run as the first call; its output is compared with what the barriers promise.
_INSIDE = """
import os, json
seen = {"pid": os.getpid(), "root": os.path.exists("/proc/self") or os.path.exists("/etc/passwd")}
try:
    if os.fork() == 0: os._exit(0)
    seen["fork"] = True
except OSError:
    seen["fork"] = False
try:
    os.listdir("/")  # a root of its own may be listed: Landlock alone refuses this
    seen["listed"] = True
except OSError:
    seen["listed"] = False
print(json.dumps(seen))
"""


class Worker:
    """One worker process, with a child of it that waits for the next call; used by one thread at a time.

    Args:
        settings: limits of its calls.

    Attributes:
        missing: barriers that its calls lack, with reasons (`tir.tools.sandbox.levels`).
        calls: programs run so far.

    Raises:
        OSError: it did not start, or died (`ask`); the text says how.
    """

    def __init__(self, settings: Settings):
        self.calls = 0
        self._settings, self._scipy = settings, False
        self._waiting: Call | None = None
        self._unread = 0  # replies to come
        self._remove_scratch: Callable[[], object] = lambda: None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # Not -I: it would take the environment away, which is the one above and nothing else.
                [sys.executable, "-s", "-P", "-c", _PROGRAM, str(_ROOT), json.dumps(asdict(settings))], stdin=theirs,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
                env=_ENVIRONMENT | {"TMPDIR": tempfile.gettempdir()}
                | {name: os.environ[name] for name in [_LIBRARIES] if name in os.environ})
        try:
            self._unread = 1
            built = self._replies(_STARTUP_S)
            # It goes with the worker, however that ends: the worker removes it, and this process if that was killed.
            if built["scratch"]:
                self._remove_scratch = weakref.finalize(self, remove, built["scratch"])
            self.missing: dict[str, str] = built["missing"]
            self._fork()
            self.missing |= _check_from_inside(self._run(_INSIDE), self.missing)
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, code: str) -> dict[str, str]:
        """Run code and return the answer (`tir.tools.sandbox.supervisor`)."""
        self.calls += 1
        if not self._scipy and "scipy" in code:
            self._scipy = True
            self._command(zygote.LOAD_SCIPY, _STARTUP_S)
            self._fork()
        return self._run(code)

    def _run(self, code: str) -> dict[str, str]:
        """Have the waiting child run code, and the next one forked, which ends what is left of this one."""
        refused = self._replies(_GRACE_S)["refused"]
        answer = make_answer("fault", text=refused) if refused else self._waiting.run(
            code, lambda: self._command(zygote.LOOK)["ended"], self._end)
        try:
            self._fork()
        except OSError:  # the answer stands; the next call finds this worker ended and starts another
            self.kill()
        return answer

    def _end(self) -> int | str | None:
        """End the child: its wait status, or the words of what it took too much of."""
        reply = self._command(zygote.END)
        return reply["excess"] or reply["status"]

    def _fork(self) -> None:
        """Have a child forked, without waiting for it; a model thinks longer than that takes."""
        if self._waiting:
            self._waiting.close()
        self._waiting = Call(self._settings)
        self._send(zygote.FORK, self._waiting.theirs)
        self._waiting.sent()

    def _command(self, command: bytes, timeout_s: float = _GRACE_S) -> dict:
        self._send(command)
        return self._replies(timeout_s)

    def _send(self, command: bytes, descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [command], list(descriptors))
        except OSError as error:
            raise self._died() from error
        self._unread += 1

    def _replies(self, timeout_s: float) -> dict:
        """Take the replies to all commands sent; the last. A worker that has none in time is killed."""
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
        """How it ended, with its last words."""
        status = self._ended()
        os.set_blocking(self._process.stderr.fileno(), False)
        words = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        return OSError(f"exit status {status}" + (f": {words.splitlines()[-1]}" if words else ""))

    def kill(self) -> None:
        """End it and everything under it at once."""
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Let it end by itself, which takes no time between calls."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # closing would not tell it while a fork of this process has a copy
        self._ended()
        self._release()

    def _ended(self) -> int:
        """Its exit status; without its socket it ends by itself, or is ended."""
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _release(self) -> None:
        if self._waiting:
            self._waiting.close()
        self._control.close()
        self._process.stderr.close()
        self._remove_scratch()


def _check_from_inside(answer: dict, missing: dict[str, str]) -> dict[str, str]:
    """Barriers that were built and do not hold, by what the first call saw."""
    if answer["status"] != "ok":
        raise OSError(f"the first call failed: {answer['text']}")
    seen = json.loads(answer["stdout"])
    broken = {"namespaces": seen["pid"] != 1 or seen["root"], "seccomp": seen["fork"],
              "landlock": seen["listed"]}
    return {name: "it was built, but a call saw through it" for name in BARRIERS if name not in missing and broken[name]}
