"""A program in the sandbox: ordinary Python works as usual, and nothing of another call is visible."""

import asyncio
import os
import time

import pytest
from support.processes import sandbox_lacks

from tir.common.errors import ToolUnavailable
from tir.common.records import write_text
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox.supervisor import HeadAndTail
from tir.tools.sandbox.worker import Worker


@pytest.fixture(scope="module")
def tool():
    with PythonTool(workers=1, timeout_s=10, minimum_level=0) as tool:
        yield tool


SECRET = "81" + "47" * 6
FRAMES = """
import re, sys
frame, seen = sys._getframe(), ""
while frame := frame.f_back:
    seen += repr(frame.f_locals)
print(len(re.findall("81(?:47){6}", seen)))
"""
# Copies memory with write(2), which returns an error at an unmapped address; reading it directly would crash.
MEMORY = """
import ctypes, re
libc, matches, total = ctypes.CDLL(None), 0, 0
libc.sbrk.restype = ctypes.c_void_p
for address in (libc.sbrk(0) - 4096, id([]), id("x" * 300), id({})):
    for step in (-4096, 4096):
        with open("memory", "w+b", buffering=0) as file:
            page = address // 4096 * 4096
            while file.tell() < 2**23 and libc.write(file.fileno(), ctypes.c_void_p(page), 4096) == 4096:
                page += step
            file.seek(0)
            memory = file.read()
            total += len(memory)
            matches += len(re.findall(b"81(?:47){6}", memory))
print(matches if total > 2**22 else "too little memory was read")
"""


@pytest.mark.parametrize("search", [FRAMES, MEMORY], ids=["frames", "freed memory"])
@pytest.mark.parametrize(
    "end", ["", "raise ValueError(SECRET)", "import os; os._exit(1)"], ids=["returns", "raises", "exits"]
)
def test_memory_holds_no_other_program_or_output(tool, search, end):
    for _ in range(3):
        tool.run(f"SECRET = {SECRET!r}\nprint(SECRET * 500)\n{end}")
    assert tool.run(search).text == "0"


@pytest.mark.parametrize(
    ("code", "text"),
    {
        "annotations": ("def f(x: int): pass\nprint(f.__annotations__)", "{'x': <class 'int'>}"),
        "pickle": ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)", "True"),
        "type hints": (
            "import typing\nclass A: pass\ndef f(a: 'A'): pass\nprint(typing.get_type_hints(f)['a'] is A)",
            "True",
        ),
        "arguments": ("import argparse, sys\nargparse.ArgumentParser().parse_args()\nprint(sys.argv)", "['']"),
        "asyncio and threads": ("import asyncio\nprint(asyncio.run(asyncio.to_thread(lambda: 5)))", "5"),
        "temporary files": ("import tempfile\nwith tempfile.NamedTemporaryFile() as f: print(f.write(b'123'))", "3"),
        "stdout replaced": ("import sys, io\nold = sys.stdout\nsys.stdout = io.StringIO()\nold.write('seen')", "seen"),
        "stdout wrapped": (
            "import sys\nclass Tee:\n  def __init__(s, f): s.f = f\n  def write(s, t): s.f.write(t)\n"
            "sys.stdout = Tee(sys.stdout)\nprint('seen')",
            "seen",
        ),
        "sys.__stdout__": ("import sys\nsys.__stdout__.write('a')\nprint('b')", "ab"),
    }.values(),
    ids=lambda value: "",
)
def test_ordinary_programs_work_as_outside_the_sandbox(tool, code, text):
    assert tool.run(code).text == text


@pytest.mark.skipif("namespaces" in sandbox_lacks(), reason="needs a mount namespace")
def test_thread_pool_can_create_semaphores(tool):
    code = "from multiprocessing.pool import ThreadPool\nprint(ThreadPool(2).map(abs, [-1, 2]))"
    assert tool.run(code).text == "[1, 2]"


@pytest.mark.skipif("namespaces" in sandbox_lacks(), reason="needs a UTS namespace")
def test_host_name_is_hidden(tool):
    assert tool.run("import platform; print(platform.node())").text == "sandbox" != os.uname().nodename


def test_random_numbers_depend_only_on_the_program():
    draw = (
        "import random\nprint(random.random(), np.random.rand(), sympy.core.random.random(), "
        "sympy.Dummy().dummy_index, {'a', 'b', 'c', 'd'})"
    )
    outputs = set()
    for _ in range(2):
        with PythonTool(workers=1, minimum_level=0) as tool:
            outputs |= {tool.run(draw).text, tool.run(draw).text}
            tool.run("import scipy")
            outputs.add(tool.run(draw).text)
            other = tool.run(draw + "  # another program").text
    (same,) = outputs
    assert same.split("{")[0] != other.split("{")[0] and same.split("{")[1] == other.split("{")[1]


@pytest.mark.parametrize(
    "code", ["raise ValueError('\\ud83d')", 'import os\nos.write(3, b\'{"type": "T", "text": "\\\\ud800"}\\n\')']
)
def test_error_text_with_lone_surrogate_can_be_written_to_a_file(tool, code, tmp_path):
    result = tool.run(code)
    assert result.status == "error"
    write_text(tmp_path / "text", result.text)


@pytest.mark.parametrize("forged", ["b'[' * 30000", "b'1' * 5000", "b'[]'", 'b\'{"type": 1, "text": []}\'', "b'\\xff'"])
def test_malformed_report_is_an_error_of_the_program_and_keeps_the_worker(tool, forged):
    worker = tool._idle.queue[0]
    assert tool.run(f"import os, time\nos.write(3, {forged} + b'\\n')\ntime.sleep(5)").text == "killed by SIGKILL"
    assert tool.run("print(1)").text == "1" and (worker is None or tool._idle.queue[0] is worker)


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_program_may_end_by_a_signal_without_a_name(without):
    with PythonTool(workers=1, timeout_s=2, without=without, minimum_level=0) as tool:
        text = tool.run("import os\nos.kill(os.getpid(), 40)").text
        # The kernel drops unhandled signals that the first process of a PID namespace sends to itself.
        assert text == ("Done" if "namespaces" not in (*without, *sandbox_lacks()) else "killed by signal 40")


@pytest.mark.parametrize("name", ["F_SETOWN", "F_SETSIG"])
def test_fcntl_cannot_make_a_descriptor_send_signals(tool, name):
    if "seccomp" in sandbox_lacks():
        pytest.skip("needs seccomp")
    command = {"F_SETOWN": 8, "F_SETSIG": 10}[name]
    code = f"import fcntl, os, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, {command}, 1)"
    assert "not permitted" in tool.run(code).text


@pytest.mark.parametrize(
    "change", ["os.chmod(path, 0o600)", "os.utime(path, (5, 5))", "os.fchmod(os.open(path, 0), 0)"]
)
def test_modes_and_times_of_host_files_cannot_change_without_namespaces(change, tmp_path):
    if {"seccomp", "landlock"} & set(sandbox_lacks()):
        pytest.skip("needs seccomp and Landlock")
    file = tmp_path / "file"
    file.write_text("x")
    before = file.stat()
    with PythonTool(workers=1, without=("namespaces",)) as tool:
        assert tool.run(f"import os\npath = {str(file)!r}\n{change}").status == "error"
    after = file.stat()
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)


def test_program_above_the_length_limit_is_refused_at_once(tool):
    started = time.monotonic()
    result = tool.run("x = '" + "\U0001f600" * 2**21 + "'")
    assert result.status == "error" and "characters" in result.text and time.monotonic() - started < 5
    assert tool.run(f"print(len({'y' * 2**19!r}))").text == str(2**19)


def test_cancelled_calls_do_not_run(caplog):
    async def cancel():
        tasks = [asyncio.create_task(tool.call("import time; time.sleep(1)")) for _ in range(6)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started = time.monotonic()
        assert (await tool.call("print(1)")).text == "1"
        return time.monotonic() - started

    with PythonTool(workers=1, minimum_level=0) as tool:
        tool.start()
        assert asyncio.run(cancel()) < 2.5
    assert not caplog.records


def test_lower_level_of_a_later_worker_is_printed(capfd):
    if sandbox_lacks():
        pytest.skip("needs all barriers")
    with PythonTool(workers=1, recycle_after=1) as tool:
        assert tool.run("print(1)").text == "1"
        tool._worker_settings = type(tool._worker_settings)(**{**vars(tool._worker_settings), "without": ("landlock",)})
        assert tool.run("print(1)").text == "1"
    levels = [line[:25] for line in capfd.readouterr().err.splitlines() if "level" in line]
    assert levels == ["Python sandbox: level 3 o", "Python sandbox: level 2 o"]


def test_lost_worker_raises_tool_unavailable(tool, monkeypatch):
    tool.run("1")
    monkeypatch.setattr(Worker, "alive", True)  # as if it ended after the check
    worker = tool._idle.queue[0]
    worker._control.shutdown(2)
    with pytest.raises(ToolUnavailable, match="worker died"):
        tool.run("print(1)")
    assert tool.run("print(2)").text == "2"


def test_head_and_tail_of_a_stream():
    stream = HeadAndTail(6)
    for data in (b"ab", b"cdefg", b"", b"hijklmnop"):
        stream.add(data)
    assert stream.value == b"abcnop"


def test_output_amid_much_white_space_is_found(tool):
    assert tool.run("print('\\n' * 40000 + '42' + '\\n' * 40000)").text == "42"
