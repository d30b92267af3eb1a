"""The worker's side of a call: fork its child ahead of time, hand it the code, collect what it says, kill what is left.

An answer is {"status": "ok" | "error" | "timeout" | "fault", "stdout": str, "type": str, "text": str}. `error` and
`timeout` are the code's own doing; `fault` is not: the call could not be set up, and the code never ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tir.tools.sandbox import call
from tir.tools.sandbox.barriers import Barriers
from tir.tools.sandbox.pages import Range
from tir.tools.sandbox.scratch import remove

_SETUP_S, _PIPE_BYTES = 30.0, 2**20  # a pipe holds no more, unless root made it


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


class Call:
    """One child, forked and shut in, that waits for its code. It runs one program or none.

    Args:
        globals_: the program's global names, already holding the preamble.
        barriers: what stands around it.
        settings: its limits.
        written: memory it will probably write to (`tir.tools.sandbox.pages`).
    """

    def __init__(self, globals_: dict, barriers: Barriers, settings: Settings, written: Sequence[Range]):
        self._settings, self._refused = settings, ""
        self._resources = contextlib.ExitStack()
        code_read, code_write = os.pipe()
        self._stdout, stdout_write = os.pipe()
        self._report, report_write = os.pipe()
        self._code = self._resources.enter_context(open(code_write, "wb", buffering=0))
        for pipe in (self._stdout, self._report):
            self._resources.callback(os.close, pipe)
        if not barriers.namespaces:
            directory = tempfile.mkdtemp()
            self._resources.callback(remove, directory)
            barriers = barriers.within(directory)
        try:
            self._child = barriers.namespaces.fork() if barriers.namespaces else os.fork()
        except OSError as error:
            self._child, self._refused = None, f"no process could be made: {error}"
        if self._child == 0:
            call.run(globals_, barriers, code_read, stdout_write, report_write, timeout_s=settings.timeout_s,
                     memory_mb=settings.memory_mb, written=written)
        for pipe in (code_read, stdout_write, report_write):
            os.close(pipe)

    def run(self, code: str) -> dict[str, str]:
        """Run a program, collect up to the byte and time limit, kill all that is left of it. `end` must follow.

        An answer does not wait for the kernel to take the killed apart, which lasts as long as a short program.

        Args:
            code: the program, as a JSON string.
        """
        output, report, timed_out = Ends(self._settings.output_bytes), Ends(65536), False
        if self._child:
            self._hand_over(code)
            # The clock of the code starts when the code does; a machine too busy to set a call up is no fault of it.
            self._collect({self._report: report}, _SETUP_S, lambda: report.value.startswith(call.READY))
            if report.value.startswith(call.READY):
                timed_out = self._collect({self._stdout: output, self._report: report}, self._settings.timeout_s,
                                          lambda: report.value.count(b"\n") > 1)
            self._kill()
            # What was written before the report is in the pipe; a process that escaped may write for ever.
            if select.select([self._stdout], [], [], 0)[0]:
                output.add(os.read(self._stdout, _PIPE_BYTES))
        return self._answer(timed_out, output, report.value or self._refused.encode())

    def _hand_over(self, code: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended while it was shut in; its report says why
            rest = memoryview(code.encode())
            while rest:
                rest = rest[self._code.write(rest):]
        self._code.close()  # the end of the code

    def _collect(self, streams: dict[int, Ends], seconds: float, done: Callable[[], bool]) -> bool:
        """Read until it is done, or the child has ended or closed its pipes.

        Returns:
            Whether it ran out of time.
        """
        waiting, deadline = set(streams), time.monotonic() + seconds
        while waiting and not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            ready = select.select(list(waiting), [], [], min(left, 0.2))[0]
            for pipe in ready:
                data = os.read(pipe, 65536)
                streams[pipe].add(data) if data else waiting.discard(pipe)
            # A left-over process may hold a pipe open; the call ends with the child all the same.
            if not ready and os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        return False

    def _kill(self) -> None:
        for kill in (os.kill, os.killpg):  # its session and, in a PID namespace, all others there
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._child, signal.SIGKILL)

    def end(self) -> None:
        """Wait for what `run` killed, or kill a child that ran nothing."""
        if self._child:
            self._kill()
            self._status()
        self._resources.close()

    def _status(self) -> int:
        """The wait status of the child, which is no more."""
        child, self._child = self._child, None
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # orphans that were handed to this process
                pass
        return status

    def _answer(self, timed_out: bool, output: Ends, report: bytes) -> dict[str, str]:
        answer = {"stdout": output.value.decode("utf-8", "replace"), "type": "", "text": ""}
        if not report.startswith(call.READY):
            reason = report.decode("utf-8", "replace") or f"it ended with status {self._status()}"
            return answer | {"status": "fault", "text": f"the call could not be set up: {reason}"}
        if timed_out:
            return answer | {"status": "timeout", "type": "TimeoutError", "text": f"timed out after {self._settings.timeout_s:g} s"}
        try:
            outcome = json.loads(report[len(call.READY):])
            if not outcome:
                return answer | {"status": "ok"}
            return answer | {"status": "error", "type": str(outcome["type"]), "text": str(outcome["text"])}
        except (ValueError, KeyError, TypeError):  # no report, or one the code forged: its end speaks for it
            status = self._status()
            if os.WIFSIGNALED(status):
                text = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
            else:
                text = f"exited with status {os.waitstatus_to_exitcode(status)}"
            return answer | {"status": "error", "type": "SystemExit", "text": text}


class Ends:
    """The first and last bytes of a stream of any length."""

    def __init__(self, limit: int):
        self._half, self._head, self._tail = limit // 2, bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Append; memory stays within twice the limit plus one read."""
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def value(self) -> bytes:
        """Head and tail."""
        return bytes(self._head + self._tail[-self._half :])
