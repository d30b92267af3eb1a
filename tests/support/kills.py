"""Kill a function at every one of its system calls, or before and after each file that it puts in its place."""

import ctypes
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

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


def assert_same_after_each_kill(run: Callable[[], None], output: Path) -> int:
    """Kill a stage before and after each of its renames, repeat it, and compare every byte of its folder.

    A rename puts a finished file or folder in its place. Each run is a forked process. Returns the number of kills.

    Args:
        run: the stage; it makes `output` and writes nothing elsewhere.
        output: the folder.
    """
    assert _forked(run) == 0, "the stage failed before it was killed"
    expected, stop = contents(output), 0
    while True:
        shutil.rmtree(output)
        stop += 1
        if (status := _forked(run, stop)) == 0:
            assert stop > 1, "the stage renames nothing"
            return stop - 1
        assert status == -signal.SIGKILL, f"the stage failed, exit status {status}, before stop {stop}"
        assert _forked(run) == 0, f"the stage fails after a kill at stop {stop}"
        found = contents(output)
        assert found.keys() == expected.keys(), f"killed at stop {stop}"
        assert found == expected, f"killed at stop {stop}"


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _forked(run: Callable[[], None], stop: int = 0) -> int:
    """Exit status of a function in a forked process, killed at a rename: odd stops before, even ones after it."""
    child = os.fork()
    if child == 0:
        try:
            if stop:
                _kill_at(stop)
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_at(stop: int) -> None:
    """Let this process be killed at a stop."""
    passed = 0

    def reach() -> None:
        nonlocal passed
        passed += 1
        if passed == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("rename", "replace"):
        rename = getattr(os, name)

        def stopping(*arguments, rename=rename, **options):
            reach()
            rename(*arguments, **options)
            reach()

        setattr(os, name, stopping)
