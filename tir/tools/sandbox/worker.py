"""The parent's handle on one preloaded worker: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import asdict
from pathlib import Path

from tir.tools.sandbox import zygote
from tir.tools.sandbox.scratch import remove
from tir.tools.sandbox.supervisor import Settings

_ROOT = Path(__file__).resolve().parents[3]
_STARTUP_S, _GRACE_S = 120.0, 45.0  # a call may take 30 s to be set up where the machine is busy
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Of the caller's environment only this passes, to the worker: an interpreter from a software module needs it to start.
_LIBRARIES = "LD_LIBRARY_PATH"
_PROGRAM = f"import sys, json; sys.path.insert(0, sys.argv[1]); from {zygote.__name__} import Settings, serve; " \
           "del sys.path[0]; serve(Settings(**json.loads(sys.argv[2])))"


class Worker:
    """One worker process; used by one thread at a time.

    Args:
        settings: limits of its calls.

    Attributes:
        missing: barriers that its calls lack, with reasons (`tir.tools.sandbox.levels`).
        calls: requests sent so far.

    Raises:
        OSError: it did not start, or died (`ask`); the text says how.
    """

    def __init__(self, settings: Settings):
        self.calls = 0
        self._received = bytearray()
        # Where there are no namespaces, calls write below this; it goes with the worker, however that ends.
        self._scratch = tempfile.mkdtemp(prefix="tir-calls-")
        self._remove_scratch = weakref.finalize(self, remove, self._scratch)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), json.dumps(asdict(settings))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, bufsize=0,
            env=_ENVIRONMENT | {"TMPDIR": self._scratch}
            | {name: os.environ[name] for name in [_LIBRARIES] if name in os.environ})
        self.missing: dict[str, str] = self._line(_STARTUP_S)["missing"]

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, code: str, timeout_s: float) -> dict[str, str]:
        """Run code and return the worker's answer (`tir.tools.sandbox.supervisor`)."""
        self.calls += 1
        request = memoryview((json.dumps(code) + "\n").encode())
        while request:
            request = request[self._process.stdin.write(request):]
        return self._line(timeout_s + _GRACE_S)

    def _line(self, timeout_s: float) -> dict:
        """The next answer; a worker that has none in time is killed."""
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.kill()
                raise OSError(f"no answer within {timeout_s:g} s")
            data = os.read(pipe, 65536)
            if not data:
                raise OSError(f"exit status {self._process.wait(_GRACE_S)}{self._last_words()}")
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return json.loads(line)

    def _last_words(self) -> str:
        ready = select.select([self._process.stderr], [], [], 0)[0]
        words = os.read(self._process.stderr.fileno(), 65536).decode("utf-8", "replace").strip() if ready else ""
        return f": {words.splitlines()[-1]}" if words else ""

    def kill(self) -> None:
        """End it and everything under it at once."""
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Let it end by itself, which takes no time between calls."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        self._remove_scratch()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()
