"""The sandbox's workers: what stands around a call, which child waits for the next one, what a lost process comes to."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from processes import alive, descendants, sandbox_lacks, wait_until

from tir.errors import ConfigError, ToolUnavailable
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox import call, usage, zygote
from tir.tools.sandbox import worker as worker_module
from tir.tools.sandbox.barriers import Barriers
from tir.tools.sandbox.scratch import remove
from tir.tools.sandbox.supervisor import Call
from tir.tools.sandbox.worker import Worker


PROCESSES = 1 if "namespaces" in sandbox_lacks() else 2  # below a worker: the call, and itself in a PID namespace


def idle_worker(tool):
    worker = tool._idle.get()
    tool._idle.put(worker)
    return worker


def test_a_worker_found_dead_is_replaced_before_use():
    with PythonTool(workers=1) as tool:
        tool.run("1")
        idle_worker(tool)._process.kill()
        idle_worker(tool)._process.wait()
        assert tool.run("print(5)").text == "5"


def test_a_worker_loads_scipy_once_for_the_first_program_that_names_it():
    """A program that does not name it is not asked to pay for it, and whoever names it later finds it loaded."""
    loaded = "import sys; print('sci' 'py.optimize' in sys.modules)"
    with PythonTool(workers=1) as tool:
        assert tool.run(loaded).text == "False"
        assert tool.run("from scipy.optimize import brentq; print(round(brentq(lambda t: t**2 - 4, 0, 5), 6))").text == "2.0"
        assert tool.run(loaded).text == "True"
        assert tool.run("print(sorted(name for name in globals() if not name.startswith('_')))").text == \
            "['Eq', 'math', 'np', 'solve', 'symbols', 'sympy', 'x', 'y', 'z']"


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_worker_that_dies_during_a_call_is_a_typed_fault_and_leaves_nothing(without):
    with PythonTool(workers=1, timeout_s=20, without=without, minimum_level=1) as tool:
        tool.run("1")
        process = idle_worker(tool)._process

        async def kill_it():
            task = asyncio.create_task(tool.call("import time; time.sleep(15)"))
            await asyncio.sleep(0.5)
            below = descendants(process.pid)
            process.kill()
            with pytest.raises(ToolUnavailable, match="worker died"):
                await task
            return below

        below = asyncio.run(kill_it())
        assert len(below) == (1 if without else PROCESSES)
        assert wait_until(lambda: not any(alive(pid) for pid in below))
        assert tool.run("print(6)").text == "6"


def test_workers_are_replaced_after_so_many_calls():
    with PythonTool(workers=1, recycle_after=2) as tool:
        seen = []
        for _ in range(5):
            assert tool.run("print(1)").text == "1"
            seen.append(idle_worker(tool)._process.pid)
        assert len(set(seen)) == 3 and not any(alive(pid) for pid in set(seen[:-1]))


@pytest.mark.skipif(bool(set(sandbox_lacks()) - {"landlock"}), reason="this kernel reaches another level without Landlock")
def test_a_machine_below_the_minimum_level_is_refused():
    with PythonTool(workers=1, minimum_level=3, without=("landlock",)) as tool:
        with pytest.raises(ConfigError, match=r"reaches level 2, minimum_level is 3.*landlock(.|\n)*minimum_level: 2"):
            tool.start()
        with pytest.raises(ConfigError):
            tool.run("print(1)")


@pytest.mark.parametrize(("without", "level"), [((), 3), (("landlock",), 2), (("namespaces",), 2),
                                                (("namespaces", "landlock"), 1), (("seccomp",), 0)])
def test_levels_are_what_stands(without, level, capfd):
    if level and (lacking := set(sandbox_lacks()) - set(without)):
        pytest.skip(f"this kernel lacks {', '.join(lacking)}")
    with PythonTool(workers=1, minimum_level=0, without=without) as tool:
        assert tool.start() == level
        assert tool.run("print(solve(x - 3))").text == "[3]"
    assert f"level {level} of 3" in capfd.readouterr().err


def test_an_ordinary_user_reaches_the_same_level():
    """A user with no privilege at all: another uid, in a user namespace that maps nobody else."""
    program = "from tir.tools.python_tool import PythonTool\n" \
              "with PythonTool(workers=1) as tool: print(tool.start(), tool.run('print(1)').text)"
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c", program]
    if subprocess.run([*command[:4], "true"], capture_output=True).returncode:
        pytest.skip("unshare --map-user is not there or refused")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == [str(3 - len(sandbox_lacks())), "1"], result.stderr


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_landlock_that_does_nothing_is_seen_from_inside(without, monkeypatch, capfd):
    """Namespaces hide what Landlock would refuse, all but the list of the root directory."""
    if set(sandbox_lacks()) - set(without):
        pytest.skip("this kernel lacks a barrier")
    monkeypatch.setattr(worker_module, "_PROGRAM", worker_module._PROGRAM.replace("del sys.path[0];", """
import types
from tir.tools.sandbox import files
files.build_rules = lambda *_: types.SimpleNamespace(apply=lambda: None)
del sys.path[0];"""))
    with PythonTool(workers=1, minimum_level=0, without=without) as tool:
        assert tool.start() == 2 - len(without)
    assert "no landlock: it was built, but a call saw through it" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["landlock", "seccomp"])
def test_a_call_that_cannot_be_set_up_says_so_and_never_runs(when, tmp_path):
    class Broken:
        def apply(self):
            raise OSError("no such wall")

        load = apply

    barriers = Barriers(namespaces=None, seccomp=None, landlock=Broken(), readable=(), directory=str(tmp_path))
    if when == "seccomp":  # the last step, when descriptors have moved
        barriers = replace(barriers, namespaces=SimpleNamespace(enter_call=lambda: None), seccomp=Broken(), landlock=None)
    (code, program), (_, stdout), (read, report) = os.pipe(), os.pipe(), os.pipe()
    os.write(program, json.dumps(f"open({str(tmp_path / 'ran')!r}, 'w')").encode() + b"\n")
    os.close(program)
    child = os.fork()
    if child == 0:
        try:
            call.run({}, barriers, code, stdout, report, call.Settings(5, 2048, 1000), written=[])
        finally:
            os._exit(99)  # it came back: a copy of its parent would go on
    os.close(report), os.close(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert os.read(read, 100) == b"OSError: no such wall" and not (tmp_path / "ran").exists()


def waiting(worker) -> set[int]:
    """Processes below a worker between two calls: the last call's is gone, the next one's is there and stays."""
    seen: list[set[int]] = []

    def settled() -> bool:
        time.sleep(0.1)
        seen.append(descendants(worker._process.pid))
        return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3] != set()

    assert wait_until(settled)
    return seen[-1]


def test_a_child_forked_for_a_call_that_never_comes_ends_with_its_worker():
    with PythonTool(workers=1) as tool:
        assert tool.run("print(1)").text == "1"
        worker = idle_worker(tool)
        below = waiting(worker)
        assert len(below) == PROCESSES
        worker.close()
        assert wait_until(lambda: not any(alive(pid) for pid in below))


@pytest.mark.parametrize("without", [(), ("namespaces",)])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("during", ["tool.run(\"import time; open('left', 'w'); time.sleep(50)\")",
                                    "tool.run(\"open('left', 'w')\"), time.sleep(50)"], ids=["call", "pause"])
def test_an_evaluator_that_is_killed_leaves_nothing(during, by, without, directory):
    program = f"""
import os, sys, threading, time
from tir.tools.python_tool import PythonTool
tool = PythonTool(workers=1, timeout_s=60, without={without}, minimum_level=0)
tool.start(), print("runs", flush=True)
threading.Timer(1, os.kill, (os.getpid(), {by.value})).start()
{during}
"""
    evaluator = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(directory)})
    assert evaluator.stdout.readline() == b"runs\n"
    below = descendants(evaluator.pid)
    assert below and evaluator.wait(20) == -by
    assert wait_until(lambda: not any(alive(pid) for pid in below)) and wait_until(lambda: not list(directory.iterdir()))


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_fork_of_the_evaluator_keeps_no_worker(without):
    with PythonTool(workers=1, without=without, timeout_s=2) as tool:
        tool.start()
        sibling = os.fork()
        if sibling == 0:
            time.sleep(60)
            os._exit(0)
        try:
            assert tool.run("print(1)").text == "1" and tool.run("import os; os._exit(3)").text == "exited with status 3"
            started = time.monotonic()
            tool.close()
            assert time.monotonic() - started < 10
        finally:
            os.kill(sibling, signal.SIGKILL), os.waitpid(sibling, 0)


def test_a_report_that_comes_while_the_worker_is_asked_is_read(monkeypatch):
    with PythonTool(workers=1) as tool:
        tool.start()
        ask = Worker._command

        def late(worker, command, *more):
            time.sleep(0.1 if command == zygote.LOOK else 0)
            return ask(worker, command, *more)

        monkeypatch.setattr(Worker, "_command", late)
        for seconds in (0.2, 0.21, 0.22, 0.41):
            assert tool.run(f"import time; time.sleep({seconds}); print('right')").text == "right"


def test_a_worker_that_does_not_start_is_a_typed_fault_with_its_words(monkeypatch):
    monkeypatch.setattr(worker_module, "_PROGRAM", "import sys; sys.exit('no such thing')")
    with PythonTool(workers=1) as tool, pytest.raises(ToolUnavailable, match="exit status 1: no such thing"):
        tool.start()


def test_an_answer_stands_though_no_next_child_can_be_asked_for(monkeypatch):
    def refuse(self):
        raise OSError("too many open files")

    with PythonTool(workers=1) as tool:
        tool.start()
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "_fork", refuse)
            assert tool.run("print(1)").text == "1"
        assert tool.run("print(2)").text == "2"


def test_pipes_that_cannot_all_be_made_are_not_kept(monkeypatch):
    made, pipe = [], os.pipe

    def scarce():
        if len(made) == 2:
            raise OSError(24, "Too many open files")
        made.append(pipe())
        return made[-1]

    monkeypatch.setattr(os, "pipe", scarce)
    with pytest.raises(OSError, match="Too many"):
        Call(call.Settings(1, 256, 100))
    for end in sum(made, ()):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_an_evaluator_may_have_many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this machine allows no process 2,048 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    many = [os.dup(0) for _ in range(1100)]
    try:
        with PythonTool(workers=1) as tool:
            assert tool.run("print(1)").text == "1"
            idle_worker(tool)._control.shutdown(2)
            with pytest.raises(ToolUnavailable, match="worker died"):
                tool.run("print(1)")
    finally:
        for number in many:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("leftover", ["time.sleep(60)", "while True: os.write(1, b'x' * 1000)"], ids=["holds the pipes", "fills them"])
def test_without_barriers_too_a_call_ends_with_its_process(leftover):
    program = f"import os, time\nif os.fork() == 0:\n    {leftover}\ntime.sleep(0.1)\nos._exit(3)"
    with PythonTool(workers=1, timeout_s=20, minimum_level=0, without=("namespaces", "seccomp", "landlock")) as tool:
        tool.start()
        result = tool.run(program)
        assert result.text == "exited with status 3" and result.seconds < 5
        assert tool.run("print(1)").text == "1"
        assert len(waiting(idle_worker(tool))) == 1  # the next call's: the first one's child is gone with it


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_a_child_lost_while_it_waits_is_a_typed_fault(without):
    with PythonTool(workers=1, without=without) as tool:
        assert tool.run("print(1)").text == "1"
        worker = idle_worker(tool)
        os.kill(max(waiting(worker)), signal.SIGKILL)
        with pytest.raises(ToolUnavailable, match="could not be set up"):
            tool.run("print(2)")
        assert tool.run("print(3)").text == "3"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where calls without a /tmp of their own write."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_call_cannot_dig_too_deep_for_its_directory_to_be_removed(directory):
    with PythonTool(workers=1, without=("namespaces",), minimum_level=1) as tool:
        worker = idle_worker(tool) if tool.start() else None
        # A slow machine's worker may find it before it is done.
        assert tool.run("import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nprint(1)").text in ("1", usage.NO_SPACE)
        assert tool.run("print(2)").text == "2" and idle_worker(tool) is worker
        (scratch,) = directory.iterdir()
        assert wait_until(lambda: len(list(scratch.iterdir())) == 1)  # the waiting call's
    assert not scratch.exists()


def test_a_directory_is_removed_and_nothing_that_it_points_to(tmp_path):
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for directory in (kept, gone, gone / "shut", gone / "shut" / "d", gone / "0"):
        directory.mkdir()
    (kept / "file").write_text("x"), (gone / "0" / "file").write_text("x")
    (gone / "shut" / "link").symlink_to(kept), (gone / "nowhere").symlink_to("nowhere")
    os.mkfifo(gone / "pipe")
    (gone / "shut").chmod(0)
    remove(str(gone))
    assert not gone.exists() and (kept / "file").read_text() == "x"
    remove(str(gone))
