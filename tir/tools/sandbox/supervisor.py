"""The evaluator's side of a call: send the program to the waiting process, read its output, classify the outcome.

An answer is {"status": "ok" | "error" | "timeout" | "fault", "stdout": str, "type": str, "text": str}. The program
causes `error` and `timeout`. `fault` is an infrastructure fault: the call could not be set up, and no code ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable

from tir.tools.sandbox.call import READY, Settings

_SETUP_S, _CHECK_S = 30.0, 0.2
_PIPE_BYTES = 2**20  # the largest pipe that an ordinary user can make
_REPORT_BYTES, _PROGRAM_CHARS = 65536, 2**20


class Call:
    """The pipes of one call, for at most one program; `close` must follow.

    Args:
        settings: limits of the call.

    Attributes:
        child_ends: pipe ends for the process that runs the program (`tir.tools.sandbox.call.run`).
    """

    def __init__(self, settings: Settings):
        self._settings, self._own, self._child = settings, contextlib.ExitStack(), contextlib.ExitStack()
        try:
            code, self._code = self._pipe(reader=self._child, writer=self._own)
            self._stdout, stdout = self._pipe(reader=self._own, writer=self._child)
            self._report, report = self._pipe(reader=self._own, writer=self._child)
        except OSError:  # too many open files: close the pipes made so far
            self.close()
            raise
        self.child_ends = code, stdout, report
        for pipe in (self._code, self._stdout, self._report):
            os.set_blocking(pipe, False)

    def _pipe(self, reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe; `reader` and `writer` are the stacks that will close its ends."""
        pipe = os.pipe()
        for side, end in zip((reader, writer), pipe, strict=True):
            side.callback(os.close, end)
        return pipe

    def close_child_ends(self) -> None:
        """Close this process's copies of the child's pipe ends, once sent; otherwise no pipe would reach its end."""
        self._child.close()

    def close(self) -> None:
        """Close all pipe ends that are still open."""
        self._child.close()
        self._own.close()

    def run(self, program: str, ended: Callable[[], bool], status: Callable[[], int | str | None]) -> dict[str, str]:
        """Run a program and read its output, up to the byte and time limits.

        Args:
            program: any text.
            ended: function that tells whether the process has ended.
            status: function that ends the process and returns its wait status; None if there was no process; an error
                text if the process was ended because it used too much disk or too many threads.
        """
        output, report = HeadAndTail(self._settings.output_bytes), HeadAndTail(_REPORT_BYTES)
        if len(program) > _PROGRAM_CHARS:
            return make_answer(
                "error", type="ValueError", text=f"a program of {len(program)} characters; {_PROGRAM_CHARS} are allowed"
            )
        deadline = time.monotonic() + _SETUP_S
        self._send(program, deadline)
        # The time limit of the program starts when it starts to run; a slow set-up does not count.
        self._read({self._report: report}, deadline, lambda: report.value.startswith(READY), ended)
        if not report.value.startswith(READY):
            reason = report.value.decode("utf-8", "replace") or f"the process ended with status {status()}"
            return make_answer("fault", text=f"the call could not be set up: {reason}")
        timed_out = self._read(
            {self._stdout: output, self._report: report},
            time.monotonic() + self._settings.timeout_s,
            lambda: report.value.count(b"\n") > 1,
            ended,
        )
        with contextlib.suppress(BlockingIOError):  # output written before the report may still be in the pipe
            output.add(os.read(self._stdout, _PIPE_BYTES))
        answer = {"stdout": output.value.decode("utf-8", "replace")}
        if timed_out:
            return make_answer(
                "timeout", type="TimeoutError", text=f"timed out after {self._settings.timeout_s:g} s", **answer
            )
        said = report.value[len(READY) :]
        return make_answer(**answer, **(_outcome(said) or _ending(status(), said)))

    def _send(self, program: str, deadline: float) -> None:
        """Write the program to the child, which may have ended or may not read yet."""
        rest, poll = memoryview(json.dumps(program).encode() + b"\n"), select.poll()
        poll.register(self._code, select.POLLOUT)
        with contextlib.suppress(BrokenPipeError):  # the child ended during its set-up; its report gives the reason
            while rest and poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                rest = rest[os.write(self._code, rest) :]

    def _read(
        self, streams: dict[int, HeadAndTail], deadline: float, done: Callable[[], bool], ended: Callable[[], bool]
    ) -> bool:
        """Read the pipes until `done`, until the process has ended or closed them, or until the deadline.

        Returns:
            Whether the deadline has passed.
        """
        poll, open_pipes = select.poll(), set(streams)
        for pipe in open_pipes:
            poll.register(pipe, select.POLLIN)
        has_ended, next_check = False, time.monotonic() + _CHECK_S
        while open_pipes and not done():
            now = time.monotonic()
            if now >= deadline:
                return True
            ready = poll.poll(0 if has_ended else 1000 * min(deadline - now, _CHECK_S))
            for pipe, _ in ready:
                if data := os.read(pipe, 65536):
                    streams[pipe].add(data)
                else:
                    poll.unregister(pipe)
                    open_pipes.discard(pipe)
            if has_ended:  # the output written just before the end has now been read
                break
            # A process that the program left behind may hold a pipe open or fill it, so also check for the end.
            if now >= next_check:
                has_ended, next_check = ended(), now + _CHECK_S
        return False


def make_answer(status: str, stdout: str = "", type: str = "", text: str = "") -> dict[str, str]:
    """The answer of a call; the module docstring describes its fields."""
    return {"status": status, "stdout": stdout, "type": type, "text": text}


def _outcome(report: bytes) -> dict[str, str] | None:
    """Status, type and text from a report; None if the report is missing or malformed (the program can write one)."""
    try:
        outcome = json.loads(report)
        if outcome == {}:
            return {"status": "ok"}
        # Replace lone surrogates: they are valid in a Python string but cannot be written to a file.
        return {"status": "error"} | {key: outcome[key].encode("utf-8", "replace").decode() for key in ("type", "text")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _ending(status: int | str | None, said: bytes) -> dict[str, str]:
    """Status and text of a process that ended without a valid report; `os._exit(0)` is a success."""
    return {"status": "ok"} if status == 0 and not said else {"status": "error", "text": _end_text(status)}


def _end_text(status: int | str | None) -> str:
    """The error text for a process that ended without a report."""
    if isinstance(status, str):
        return status
    if status is None:
        return "exited without a status"
    if not os.WIFSIGNALED(status):
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    # Real-time signals have no names.
    return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"


class HeadAndTail:
    """The first and last bytes of a stream of any length; leading white space is skipped."""

    def __init__(self, limit: int):
        self._half, self._head, self._tail = limit // 2, bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Append data; memory use stays below twice the limit plus one read."""
        data = data if self._head else data.lstrip()
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def value(self) -> bytes:
        """Head and tail, joined."""
        return bytes(self._head + self._tail[-self._half :])
