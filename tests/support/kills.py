"""Kill a function at every one of its system calls."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

_TRACE_ME, _KILL_WITH_TRACER, _SET_OPTIONS, _TO_NEXT_CALL = 0, 0x100000, 0x4200, 24  # linux/ptrace.h
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, process: int, data: int = 0) -> None:
    if _libc.ptrace(request, process, None, ctypes.c_void_p(data)) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def killed_at_each_call(prepare: Callable[[], None], run: Callable[[], None]) -> Iterator[int]:
    """Run a function again and again in a forked process, and kill it one system call later each time.

    Yields after each kill the number of the stop: odd before a system call, even after it. Ends when `run` is complete
    before the kill.

    Args:
        prepare: called before each run.
        run: the function.
    """
    stop = 0
    while True:
        stop += 1
        prepare()
        child = os.fork()
        if child == 0:
            try:
                _ptrace(_TRACE_ME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                run()
                os._exit(0)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        _ptrace(_SET_OPTIONS, child, _KILL_WITH_TRACER)
        for _ in range(stop):
            _ptrace(_TO_NEXT_CALL, child)
            status = os.waitpid(child, 0)[1]
            if not os.WIFSTOPPED(status):
                assert os.waitstatus_to_exitcode(status) == 0, "the function failed before it was killed"
                return
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        yield stop
