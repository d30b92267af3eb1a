"""What a program meets in the sandbox: ordinary Python where nothing is at stake, and no trace of another call."""

import asyncio
import os
import time

import pytest
from processes import sandbox_lacks

from tir.errors import ToolUnavailable
from tir.records import write_text
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox.supervisor import Ends


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
# Writing from an address that cannot be read is an error, where reading it is the end.
MEMORY = """
import ctypes, re
libc, found, seen = ctypes.CDLL(None), 0, 0
libc.sbrk.restype = ctypes.c_void_p
for place in (libc.sbrk(0) - 4096, id([]), id("x" * 300), id({})):
    for step in (-4096, 4096):
        with open("memory", "w+b", buffering=0) as file:
            page = place // 4096 * 4096
            while file.tell() < 2**23 and libc.write(file.fileno(), ctypes.c_void_p(page), 4096) == 4096:
                page += step
            file.seek(0)
            memory = file.read()
            seen += len(memory)
            found += len(re.findall(b"81(?:47){6}", memory))
print(found if seen > 2**22 else "too little seen")
"""


@pytest.mark.parametrize("look", [FRAMES, MEMORY], ids=["frames", "freed memory"])
@pytest.mark.parametrize("end", ["", "raise ValueError(SECRET)", "import os; os._exit(1)"], ids=["ends", "raises", "exits"])
def test_a_program_finds_no_other_program_and_no_output(tool, look, end):
    for _ in range(3):
        tool.run(f"SECRET = {SECRET!r}\nprint(SECRET * 500)\n{end}")
    assert tool.run(look).text == "0"


@pytest.mark.parametrize(("code", "text"), {
    "annotations": ("def f(x: int): pass\nprint(f.__annotations__)", "{'x': <class 'int'>}"),
    "pickle": ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)", "True"),
    "type hints": ("import typing\nclass A: pass\ndef f(a: 'A'): pass\nprint(typing.get_type_hints(f)['a'] is A)", "True"),
    "arguments": ("import argparse, sys\nargparse.ArgumentParser().parse_args()\nprint(sys.argv)", "['']"),
    "asyncio and threads": ("import asyncio\nprint(asyncio.run(asyncio.to_thread(lambda: 5)))", "5"),
    "temporary files": ("import tempfile\nwith tempfile.NamedTemporaryFile() as f: print(f.write(b'123'))", "3"),
    "output put aside": ("import sys, io\nold = sys.stdout\nsys.stdout = io.StringIO()\nold.write('seen')", "seen"),
    "output put aside for good": ("import sys\nclass Tee:\n  def __init__(s, f): s.f = f\n  def write(s, t): s.f.write(t)\n"
                                  "sys.stdout = Tee(sys.stdout)\nprint('seen')", "seen"),
    "the first output": ("import sys\nsys.__stdout__.write('a')\nprint('b')", "ab"),
}.values(), ids=lambda value: "")
def test_ordinary_programs_do_what_they_do_elsewhere(tool, code, text):
    assert tool.run(code).text == text


@pytest.mark.skipif("namespaces" in sandbox_lacks(), reason="needs a root of its own")
def test_a_pool_of_threads_has_its_semaphores(tool):
    assert tool.run("from multiprocessing.pool import ThreadPool\nprint(ThreadPool(2).map(abs, [-1, 2]))").text == "[1, 2]"


@pytest.mark.skipif("namespaces" in sandbox_lacks(), reason="needs a UTS namespace")
def test_the_machine_has_no_name(tool):
    assert tool.run("import platform; print(platform.node())").text == "sandbox" != os.uname().nodename


def test_the_same_program_prints_the_same_and_another_one_draws_anew():
    draw = "import random\nprint(random.random(), np.random.rand(), sympy.core.random.random(), sympy.Dummy().dummy_index, {'a', 'b', 'c', 'd'})"
    seen = set()
    for _ in range(2):
        with PythonTool(workers=1, minimum_level=0) as tool:
            seen |= {tool.run(draw).text, tool.run(draw).text}
            tool.run("import scipy")
            seen.add(tool.run(draw).text)
            other = tool.run(draw + "  # and so on").text
    (same,) = seen
    assert same.split("{")[0] != other.split("{")[0] and same.split("{")[1] == other.split("{")[1]


@pytest.mark.parametrize("code", ["raise ValueError('\\ud83d')", "import os\nos.write(3, b'{\"type\": \"T\", \"text\": \"\\\\ud800\"}\\n')"])
def test_an_error_text_can_be_written_to_a_file(tool, code, tmp_path):
    result = tool.run(code)
    assert result.status == "error"
    write_text(tmp_path / "text", result.text)


@pytest.mark.parametrize("forged", ["b'[' * 30000", "b'1' * 5000", "b'[]'", "b'{\"type\": 1, \"text\": []}'", "b'\\xff'"])
def test_a_forged_report_is_the_programs_own_fault_and_its_worker_stays(tool, forged):
    worker = tool._idle.queue[0]
    assert tool.run(f"import os, time\nos.write(3, {forged} + b'\\n')\ntime.sleep(5)").text == "killed by SIGKILL"
    assert tool.run("print(1)").text == "1" and (worker is None or tool._idle.queue[0] is worker)


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_signal_without_a_name_is_an_ending_too(without):
    with PythonTool(workers=1, timeout_s=2, without=without, minimum_level=0) as tool:
        text = tool.run("import os\nos.kill(os.getpid(), 40)").text
        # The first process of a PID namespace is deaf to signals of its own that it does not handle.
        assert text == ("Done" if "namespaces" not in (*without, *sandbox_lacks()) else "killed by signal 40")


@pytest.mark.parametrize("name", ["F_SETOWN", "F_SETSIG"])
def test_no_file_descriptor_sends_signals(tool, name):
    if "seccomp" in sandbox_lacks():
        pytest.skip("needs seccomp")
    code = f"import fcntl, os, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, {{'F_SETOWN': 8, 'F_SETSIG': 10}}['{name}'], 1)"
    assert "not permitted" in tool.run(code).text


@pytest.mark.parametrize("change", ["os.chmod(path, 0o600)", "os.utime(path, (5, 5))", "os.fchmod(os.open(path, 0), 0)"])
def test_files_of_others_keep_their_modes_and_times_without_namespaces(change, tmp_path):
    if {"seccomp", "landlock"} & set(sandbox_lacks()):
        pytest.skip("needs seccomp and Landlock")
    file = tmp_path / "file"
    file.write_text("x")
    before = file.stat()
    with PythonTool(workers=1, without=("namespaces",)) as tool:
        assert tool.run(f"import os\npath = {str(file)!r}\n{change}").status == "error"
    after = file.stat()
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)


def test_a_program_too_long_to_be_one_is_refused_at_once(tool):
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


def test_a_worker_that_becomes_weaker_says_so(capfd):
    if sandbox_lacks():
        pytest.skip("needs all barriers")
    with PythonTool(workers=1, recycle_after=1) as tool:
        assert tool.run("print(1)").text == "1"
        tool._settings = type(tool._settings)(**{**vars(tool._settings), "without": ("landlock",)})
        assert tool.run("print(1)").text == "1"
    levels = [line[:25] for line in capfd.readouterr().err.splitlines() if "level" in line]
    assert levels == ["Python sandbox: level 3 o", "Python sandbox: level 2 o"]


def test_a_worker_that_is_gone_is_a_typed_fault(tool):
    tool.run("1")
    worker = tool._idle.queue[0]
    worker._control.shutdown(2)
    with pytest.raises(ToolUnavailable, match="worker died"):
        tool.run("print(1)")
    assert tool.run("print(2)").text == "2"


def test_the_ends_of_a_stream():
    ends = Ends(6)
    for piece in (b"ab", b"cdefg", b"", b"hijklmnop"):
        ends.add(piece)
    assert ends.value == b"abcnop"


def test_an_answer_amid_white_space_is_found(tool):
    assert tool.run("print('\\n' * 40000 + '42' + '\\n' * 40000)").text == "42"
