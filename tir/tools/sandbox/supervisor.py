"""The evaluator's side of a call: hand the waiting process its program, collect what it says, tell what became of it.

An answer is {"status": "ok" | "error" | "timeout" | "fault", "stdout": str, "type": str, "text": str}. `error` and
`timeout` are the code's own doing; `fault` is not: the call could not be set up, and the code never ran.
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

_SETUP_S, _LOOK_S = 30.0, 0.2
_PIPE_BYTES, _REPORT_BYTES, _PROGRAM_CHARS = 2**20, 65536, 2**20  # a pipe holds no more, unless root made it


class Call:
    """The pipes of one call. It runs one program or none; `close` must follow.

    Args:
        settings: its limits.

    Attributes:
        theirs: descriptors for the process that will run it (`tir.tools.sandbox.call.run`); `sent` closes them here.
    """

    def __init__(self, settings: Settings):
        self._settings, self._ours, self._theirs = settings, contextlib.ExitStack(), contextlib.ExitStack()
        try:
            code, self._code = self._pipe(self._theirs, self._ours)
            self._stdout, stdout = self._pipe(self._ours, self._theirs)
            self._report, report = self._pipe(self._ours, self._theirs)
        except OSError:  # too many are open; what there is must not stay
            self.close()
            raise
        self.theirs = code, stdout, report
        for pipe in (self._code, self._stdout, self._report):
            os.set_blocking(pipe, False)

    def _pipe(self, reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
        pipe = os.pipe()
        for side, end in zip((reads, writes), pipe, strict=True):
            side.callback(os.close, end)
        return pipe

    def sent(self) -> None:
        """The other side has its ends; while they are open here too, no pipe would ever end."""
        self._theirs.close()

    def close(self) -> None:
        """Close what is open."""
        self._theirs.close()
        self._ours.close()

    def run(self, program: str, ended: Callable[[], bool], status: Callable[[], int | str | None]) -> dict[str, str]:
        """Run a program and collect up to the byte and time limit.

        Args:
            program: any text.
            ended: whether the process is no more.
            status: ends it and tells its wait status; None if there never was one; words if it was ended for what
                it took.
        """
        output, report = Ends(self._settings.output_bytes), Ends(_REPORT_BYTES)
        if len(program) > _PROGRAM_CHARS:
            return make_answer("error", type="ValueError", text=f"a program of {len(program)} characters; {_PROGRAM_CHARS} are allowed")
        deadline = time.monotonic() + _SETUP_S
        self._hand_over(program, deadline)
        # The clock of the code starts when the code does; a machine too busy to set a call up is no fault of it.
        self._collect({self._report: report}, deadline, lambda: report.value.startswith(READY), ended)
        if not report.value.startswith(READY):
            reason = report.value.decode("utf-8", "replace") or f"it ended with status {status()}"
            return make_answer("fault", text=f"the call could not be set up: {reason}")
        timed_out = self._collect({self._stdout: output, self._report: report}, time.monotonic() + self._settings.timeout_s,
                                  lambda: report.value.count(b"\n") > 1, ended)
        with contextlib.suppress(BlockingIOError):  # what was written before the report is in the pipe
            output.add(os.read(self._stdout, _PIPE_BYTES))
        answer = {"stdout": output.value.decode("utf-8", "replace")}
        if timed_out:
            return make_answer("timeout", type="TimeoutError", text=f"timed out after {self._settings.timeout_s:g} s", **answer)
        return make_answer(**answer, **(_outcome(report.value[len(READY):]) or {
            "status": "error", "text": _end(status())}))

    def _hand_over(self, program: str, deadline: float) -> None:
        """Write a program to a process that may not be there, or may not be ready to read."""
        rest, poll = memoryview(json.dumps(program).encode() + b"\n"), select.poll()
        poll.register(self._code, select.POLLOUT)
        with contextlib.suppress(BrokenPipeError):  # it ended while it was shut in; its report says why
            while rest and poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                rest = rest[os.write(self._code, rest):]

    def _collect(self, streams: dict[int, Ends], deadline: float, done: Callable[[], bool], ended: Callable[[], bool]) -> bool:
        """Read until it is done, or the process has ended or closed its pipes.

        Returns:
            Whether it ran out of time.
        """
        poll, waiting = select.poll(), set(streams)
        for pipe in waiting:
            poll.register(pipe, select.POLLIN)
        over, look = False, time.monotonic() + _LOOK_S
        while waiting and not done():
            now = time.monotonic()
            if now >= deadline:
                return True
            ready = poll.poll(0 if over else 1000 * min(deadline - now, _LOOK_S))
            for pipe, _ in ready:
                if data := os.read(pipe, 65536):
                    streams[pipe].add(data)
                else:
                    poll.unregister(pipe)
                    waiting.discard(pipe)
            if over:  # what it wrote just before its end has been read now
                break
            # A left-over process may hold a pipe open, or fill it; the call ends with its own process all the same.
            if now >= look:
                over, look = ended(), now + _LOOK_S
        return False


def make_answer(status: str, stdout: str = "", type: str = "", text: str = "") -> dict[str, str]:
    """What a call came to; see above."""
    return {"status": status, "stdout": stdout, "type": type, "text": text}


def _outcome(report: bytes) -> dict[str, str] | None:
    """What a report says; None if there is none, or one that the code forged and that says nothing."""
    try:
        outcome = json.loads(report)
        if outcome == {}:
            return {"status": "ok"}
        # A lone surrogate is a character to Python and to no file.
        return {"status": "error"} | {key: outcome[key].encode("utf-8", "replace").decode() for key in ("type", "text")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _end(status: int | str | None) -> str:
    """A wait status in words, if it is none already. It is no exception of the program's, so it has no type."""
    if isinstance(status, str):
        return status
    if status is None:
        return "exited without a word"
    if not os.WIFSIGNALED(status):
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    # Real-time signals have numbers only.
    return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"


class Ends:
    """The first and last bytes of a stream of any length, from the first that is not white space."""

    def __init__(self, limit: int):
        self._half, self._head, self._tail = limit // 2, bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Append; memory stays within twice the limit plus one read."""
        data = data if self._head else data.lstrip()
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def value(self) -> bytes:
        """Head and tail."""
        return bytes(self._head + self._tail[-self._half :])
