"""The Python tool: upstream's golden vectors, and code that tries to take its host down."""

import asyncio
import time

import pytest

from tir.errors import ToolUnavailable
from tir.tools.python_tool import PythonTool


@pytest.fixture(scope="module")
def tool():
    with PythonTool(timeout_s=2.0, workers=2) as tool:
        yield tool


@pytest.mark.parametrize(("code", "text"), [
    ("print(1+1)", "2"), ("a = 1", "Done"), ("1+1", "Done"), ("print(solve(Eq(x**2,4),x))", "[-2, 2]"),
    ("print(np.arange(3))", "[0 1 2]"), ("import scipy; print(scipy.__name__)", "scipy"),
    ("# a comment with input( in it\nprint(3)", "3"),
])
def test_good_code(tool, code, text):
    result = tool.run(code)
    assert (result.status, result.text) == ("ok", text)


@pytest.mark.parametrize(("code", "text"), [
    ("print(1/0)", "division by zero"), ("print(foo)", "name 'foo' is not defined"),
    ("x = = 1", "invalid syntax (<string>, line 1)"), ("assert 1==2", "AssertionError"),
    ('print("a"); raise ValueError("boom")', "boom"), ("import sys; sys.exit(3)", "SystemExit: 3"), ("exit()", "SystemExit"),
    ("import os; os._exit(1)", "exited with status 1"), ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ("a = ' ' * 10**11", "out of memory"), ("print(input())", "EOF"), ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("import os; os.kill(os.getpid(), 9)", "SIGKILL"), ("def f(): f()\nf()", "recursion"),
])
def test_bad_code_is_an_error_text(tool, code, text):
    result = tool.run(code)
    assert result.status == "error" and text in result.text
    assert tool.run("print('alive')").text == "alive"


def test_calls_share_no_state(tool):
    assert tool.run("zz = 1").status == "ok"
    assert "zz" in tool.run("print(zz)").text


def test_long_output_keeps_both_ends(tool):
    result = tool.run("print('a' * 1000)")
    assert len(result.text) == 403 and result.text == "a" * 200 + "..." + "a" * 200


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(20)",
                                  "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"])
def test_time_is_limited(tool, code):
    started = time.monotonic()
    result = tool.run(code)
    assert result.status == "timeout" and "2 s" in result.text and time.monotonic() - started < 4


def test_endless_output_is_bounded(tool):
    result = tool.run("while True: print('x' * 10000)")
    assert result.status == "timeout" and len(result.text) < 500


def test_a_child_that_holds_the_pipe_does_not_hold_the_call(tool):
    started = time.monotonic()
    assert tool.run("import os, time\nif os.fork() == 0: time.sleep(30)\nprint('parent')").text == "parent"
    assert time.monotonic() - started < 1.5


def test_environment_and_directory_are_empty(tool):
    assert tool.run("import os; print(dict(os.environ), os.listdir('.'))").text == "{} []"


def test_calls_run_side_by_side(tool):
    async def all_at_once():
        return await asyncio.gather(*(tool.call(f"import time; time.sleep(0.5); print({n})") for n in range(2)))

    tool.run_many(["1"] * 4)
    started = time.monotonic()
    assert [result.text for result in asyncio.run(all_at_once())] == ["0", "1"]
    assert time.monotonic() - started < 0.95


def test_a_dead_worker_is_a_typed_fault_then_replaced():
    with PythonTool(workers=1) as tool:
        tool.run("1")
        worker = tool._idle.get()
        tool._idle.put(worker)
        worker.kill()
        worker.wait()
        assert tool.run("print(5)").text == "5"  # a worker found dead is replaced before use


def test_waiting_too_long_is_not_running_too_long():
    with PythonTool(workers=1, timeout_s=3.0, queue_timeout_s=0.3) as tool:
        tool.run("1")

        async def crowd():
            first = asyncio.create_task(asyncio.to_thread(tool.run, "import time; time.sleep(1.5)"))
            await asyncio.sleep(0.2)
            with pytest.raises(ToolUnavailable, match="workers"):
                await asyncio.to_thread(tool.run, "print(1)")
            return await first

        assert asyncio.run(crowd()).status == "ok"
