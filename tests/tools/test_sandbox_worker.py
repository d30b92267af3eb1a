"""Sandbox workers: their barriers, the child that waits for the next call, and faults of worker processes."""

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
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.processes import alive, descendants, sandbox_lacks, wait_until

from tir.common.errors import ConfigError, ToolUnavailable
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox import call, namespaces, usage, zygote
from tir.tools.sandbox import worker as worker_module
from tir.tools.sandbox.barriers import Barriers
from tir.tools.sandbox.supervisor import Call
from tir.tools.sandbox.worker import Worker

# Processes below a worker: the child of the call, and with a PID namespace the worker's own first process.
PROCESSES = 1 if "namespaces" in sandbox_lacks() else 2


def idle_worker(tool):
    """The worker that will run the next call."""
    worker = tool._idle.get()
    tool._idle.put(worker)
    return worker


def test_dead_worker_is_replaced_before_use():
    with PythonTool(workers=1) as tool:
        tool.run("1")
        idle_worker(tool)._process.kill()
        idle_worker(tool)._process.wait()
        assert tool.run("print(5)").text == "5"


def test_worker_loads_scipy_once_when_a_program_first_names_it():
    """Programs before the first use of scipy do not pay for its import; later programs find it loaded."""
    is_loaded = "import sys; print('sci' 'py.optimize' in sys.modules)"
    with PythonTool(workers=1) as tool:
        assert tool.run(is_loaded).text == "False"
        code = "from scipy.optimize import brentq; print(round(brentq(lambda t: t**2 - 4, 0, 5), 6))"
        assert tool.run(code).text == "2.0"
        assert tool.run(is_loaded).text == "True"
        names = tool.run("print(sorted(name for name in globals() if not name.startswith('_')))").text
        assert names == "['Eq', 'math', 'np', 'solve', 'symbols', 'sympy', 'x', 'y', 'z']"


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_worker_killed_during_a_call_raises_and_leaves_no_processes(without):
    with PythonTool(workers=1, timeout_s=20, without=without, minimum_level=1) as tool:
        tool.run("1")
        process = idle_worker(tool)._process

        async def kill_during_call():
            task = asyncio.create_task(tool.call("import time; time.sleep(15)"))
            await asyncio.sleep(0.5)
            below = descendants(process.pid)
            process.kill()
            with pytest.raises(ToolUnavailable, match="worker died"):
                await task
            return below

        below = asyncio.run(kill_during_call())
        assert len(below) == (1 if without else PROCESSES)
        assert wait_until(lambda: not any(alive(pid) for pid in below))
        assert tool.run("print(6)").text == "6"


def test_workers_are_replaced_after_recycle_after_calls():
    with PythonTool(workers=1, recycle_after=2) as tool:
        pids = []
        for _ in range(5):
            assert tool.run("print(1)").text == "1"
            pids.append(idle_worker(tool)._process.pid)
        assert len(set(pids)) == 3 and not any(alive(pid) for pid in set(pids[:-1]))


@pytest.mark.skipif(
    bool(set(sandbox_lacks()) - {"landlock"}), reason="this kernel reaches another level without Landlock"
)
def test_machine_below_minimum_level_raises_config_error():
    with PythonTool(workers=1, minimum_level=3, without=("landlock",)) as tool:
        with pytest.raises(ConfigError, match=r"reaches level 2, minimum_level is 3.*landlock(.|\n)*minimum_level: 2"):
            tool.start()
        with pytest.raises(ConfigError):
            tool.run("print(1)")


@pytest.mark.parametrize(
    ("without", "level"),
    [((), 3), (("landlock",), 2), (("namespaces",), 2), (("namespaces", "landlock"), 1), (("seccomp",), 0)],
)
def test_level_follows_from_barriers(without, level, capfd):
    if level and (lacking := set(sandbox_lacks()) - set(without)):
        pytest.skip(f"this kernel lacks {', '.join(lacking)}")
    with PythonTool(workers=1, minimum_level=0, without=without) as tool:
        assert tool.start() == level
        assert tool.run("print(solve(x - 3))").text == "[3]"
    assert f"level {level} of 3" in capfd.readouterr().err


def test_ordinary_user_reaches_the_same_level():
    """A user without privileges: another uid, in a user namespace that maps only that uid."""
    program = (
        "from tir.tools.python_tool import PythonTool\n"
        "with PythonTool(workers=1) as tool: print(tool.start(), tool.run('print(1)').text)"
    )
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c", program]
    if subprocess.run([*command[:4], "true"], capture_output=True).returncode:
        pytest.skip("unshare --map-user is missing or not permitted")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == [str(3 - len(sandbox_lacks())), "1"], result.stderr


def change_worker(monkeypatch, code: str) -> None:
    """Run code in the worker process before it sets up its barriers."""
    program = worker_module._PROGRAM.replace("del sys.path[0];", f"\n{code}\ndel sys.path[0];")
    assert code in program
    monkeypatch.setattr(worker_module, "_PROGRAM", program)


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_self_check_detects_landlock_without_effect(without, monkeypatch, capfd):
    """With namespaces, listing the root directory is the only access that just Landlock forbids."""
    if set(sandbox_lacks()) - set(without):
        pytest.skip("this kernel lacks a barrier")
    change_worker(
        monkeypatch,
        "import types\nfrom tir.tools.sandbox import files\n"
        "files.build_rules = lambda *_: types.SimpleNamespace(apply=lambda: None)",
    )
    with PythonTool(workers=1, minimum_level=0, without=without) as tool:
        assert tool.start() == 2 - len(without)
    assert "no landlock: it was set up, but the self-check got past it" in capfd.readouterr().err


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A working directory and a home with files that no call may read."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("work/config.yaml", "work/data/golds.jsonl", "work/lib/golds.so", "home/.netrc", "home/lib/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("PRIVATE")
    for directory in (tmp_path, *tmp_path.rglob("*")):
        directory.chmod(0o755)  # file permissions must not hide the files; only the sandbox may
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.mark.parametrize("without", [(), ("namespaces",), ("landlock",)])
@pytest.mark.parametrize("libraries", ["/usr/local/lib:.", "ROOT/work:ROOT/work/lib:ROOT/home:", "/:ROOT/home/lib:lib"])
def test_library_path_of_the_environment_opens_nothing_but_libraries(private, monkeypatch, without, libraries):
    if set(sandbox_lacks()) - set(without):
        pytest.skip("this kernel lacks a barrier")
    monkeypatch.setenv("LD_LIBRARY_PATH", libraries.replace("ROOT", str(private)))
    with PythonTool(workers=1, without=without) as tool:
        assert tool.start() == 3 - len(without)
        for path in (path for path in private.rglob("*") if path.is_file()):
            assert "PRIVATE" not in tool.run(f"print(open({str(path)!r}).read())").text


def test_libraries_of_a_software_module_can_be_loaded(tmp_path, monkeypatch):
    """A module's Python needs libraries from directories that only the environment names, under the names of links."""
    library = next(Path("/usr/lib").rglob("libm.so.6"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmodule.so.6.1").write_bytes(library.read_bytes())
    (tmp_path / "lib" / "libmodule.so.6").symlink_to("libmodule.so.6.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    with PythonTool(workers=1) as tool:
        assert tool.run("import ctypes; print(ctypes.CDLL('libmodule.so.6').cbrt is not None)").text == "True"


def test_source_directory_on_the_path_is_not_readable(private, monkeypatch):
    """An editable installation adds the project's own directory to `sys.path`."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(private / "work")])
    assert not [path for path in namespaces.system_files() if path.startswith(str(private))]


def test_an_environment_that_is_a_link_is_readable_under_its_name_in_the_path(tmp_path, monkeypatch):
    """Python looks for a module that is not loaded yet under the names in `sys.path`."""
    (tmp_path / "link").symlink_to(sys.prefix)
    names = [path for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages")]
    linked = [path.replace(sys.prefix, str(tmp_path / "link")) for path in names]
    nested = [f"{path}/numpy" for path in linked]  # Ray adds such a directory
    monkeypatch.setattr(sys, "path", [*linked, *nested])
    files = namespaces.system_files()
    assert linked and set(linked) <= set(files)
    assert not set(nested) & set(files)  # a second mount inside of a mount that is read-only would fail


@pytest.mark.parametrize("place", ["work", "home"])
def test_self_check_finds_an_open_working_directory_or_home(private, monkeypatch, place):
    if sandbox_lacks():
        pytest.skip("this kernel lacks a barrier")
    change_worker(
        monkeypatch,
        "from tir.tools.sandbox import namespaces\nusual = namespaces.system_files()\n"
        f"namespaces.system_files = lambda: [*usual, {str(private / place)!r}]",
    )
    with PythonTool(workers=1) as tool, pytest.raises(ConfigError, match=rf"got past it and read {private}/{place}/"):
        tool.start()


@pytest.mark.parametrize("step", ["landlock", "seccomp"])
def test_call_that_cannot_be_set_up_reports_the_reason_and_runs_nothing(step, tmp_path):
    class Broken:
        def apply(self):
            raise OSError("cannot be applied")

        load = apply

    barriers = Barriers(namespaces=None, seccomp=None, landlock=Broken(), readable=(), directory=str(tmp_path))
    if step == "seccomp":  # the last step, after the descriptors have been moved
        barriers = replace(
            barriers, namespaces=SimpleNamespace(enter_call=lambda: None), seccomp=Broken(), landlock=None
        )
    (code, program), (_, stdout), (read, report) = os.pipe(), os.pipe(), os.pipe()
    os.write(program, json.dumps(f"open({str(tmp_path / 'ran')!r}, 'w')").encode() + b"\n")
    os.close(program)
    child = os.fork()
    if child == 0:
        try:
            call.run({}, barriers, code, stdout, report, call.Settings(5, 2048, 1000), written=[])
        finally:
            os._exit(99)  # `run` returned: end here, or this copy of the test process would go on
    os.close(report), os.close(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert os.read(read, 100) == b"OSError: cannot be applied" and not (tmp_path / "ran").exists()


def waiting_processes(worker) -> set[int]:
    """Processes below a worker between two calls, after the last child has ended and the next one was forked."""
    snapshots: list[set[int]] = []

    def stable() -> bool:
        time.sleep(0.1)
        snapshots.append(descendants(worker._process.pid))
        return len(snapshots) > 2 and snapshots[-1] == snapshots[-2] == snapshots[-3] != set()

    assert wait_until(stable)
    return snapshots[-1]


def test_waiting_child_ends_with_its_worker():
    with PythonTool(workers=1) as tool:
        assert tool.run("print(1)").text == "1"
        worker = idle_worker(tool)
        below = waiting_processes(worker)
        assert len(below) == PROCESSES
        worker.close()
        assert wait_until(lambda: not any(alive(pid) for pid in below))


@pytest.mark.parametrize("without", [(), ("namespaces",)])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "during",
    ["tool.run(\"import time; open('left', 'w'); time.sleep(50)\")", "tool.run(\"open('left', 'w')\"), time.sleep(50)"],
    ids=["call", "pause"],
)
def test_killed_evaluator_leaves_no_processes_and_no_files(during, by, without, directory):
    program = f"""
import os, sys, threading, time
from tir.tools.python_tool import PythonTool
tool = PythonTool(workers=1, timeout_s=60, without={without}, minimum_level=0)
tool.start(), print("runs", flush=True)
threading.Timer(1, os.kill, (os.getpid(), {by.value})).start()
{during}
"""
    evaluator = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(directory)}
    )
    assert evaluator.stdout.readline() == b"runs\n"
    below = descendants(evaluator.pid)
    assert below and evaluator.wait(20) == -by
    assert wait_until(lambda: not any(alive(pid) for pid in below))
    assert wait_until(lambda: not list(directory.iterdir()))


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_fork_of_the_evaluator_does_not_keep_a_worker_alive(without):
    with PythonTool(workers=1, without=without, timeout_s=2) as tool:
        tool.start()
        sibling = os.fork()
        if sibling == 0:
            time.sleep(60)
            os._exit(0)
        try:
            assert tool.run("print(1)").text == "1"
            assert tool.run("import os; os._exit(3)").text == "exited with status 3"
            started = time.monotonic()
            tool.close()
            assert time.monotonic() - started < 10
        finally:
            os.kill(sibling, signal.SIGKILL), os.waitpid(sibling, 0)


def test_report_that_arrives_during_a_check_of_the_child_is_read(monkeypatch):
    with PythonTool(workers=1) as tool:
        tool.start()
        command_now = Worker._command

        def slow_check(worker, command, *arguments):
            time.sleep(0.1 if command == zygote.CHECK else 0)
            return command_now(worker, command, *arguments)

        monkeypatch.setattr(Worker, "_command", slow_check)
        for seconds in (0.2, 0.21, 0.22, 0.41):
            assert tool.run(f"import time; time.sleep({seconds}); print('right')").text == "right"


def test_worker_that_does_not_start_raises_with_its_error_output(monkeypatch):
    monkeypatch.setattr(worker_module, "_PROGRAM", "import sys; sys.exit('no such thing')")
    with PythonTool(workers=1) as tool, pytest.raises(ToolUnavailable, match="exit status 1: no such thing"):
        tool.start()


def test_answer_is_returned_although_the_next_child_cannot_be_forked(monkeypatch):
    def refuse(self):
        raise OSError("too many open files")

    with PythonTool(workers=1) as tool:
        tool.start()
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "_fork", refuse)
            assert tool.run("print(1)").text == "1"
        assert tool.run("print(2)").text == "2"


def test_pipes_are_closed_if_not_all_can_be_made(monkeypatch):
    pipes, pipe = [], os.pipe

    def at_most_two_pipes():
        if len(pipes) == 2:
            raise OSError(24, "Too many open files")
        pipes.append(pipe())
        return pipes[-1]

    monkeypatch.setattr(os, "pipe", at_most_two_pipes)
    with pytest.raises(OSError, match="Too many"):
        Call(call.Settings(1, 256, 100))
    for end in sum(pipes, ()):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_evaluator_may_have_more_than_1024_descriptors(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this machine allows no process 2,048 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    many = [os.dup(0) for _ in range(1100)]
    try:
        with PythonTool(workers=1) as tool:
            assert tool.run("print(1)").text == "1"
            monkeypatch.setattr(Worker, "alive", True)  # as if it ended after the check
            idle_worker(tool)._control.shutdown(2)
            with pytest.raises(ToolUnavailable, match="worker died"):
                tool.run("print(1)")
    finally:
        for number in many:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "leftover", ["time.sleep(60)", "while True: os.write(1, b'x' * 1000)"], ids=["holds the pipes", "fills the pipes"]
)
def test_call_ends_with_its_first_process_without_barriers(leftover):
    program = f"import os, time\nif os.fork() == 0:\n    {leftover}\ntime.sleep(0.1)\nos._exit(3)"
    with PythonTool(workers=1, timeout_s=20, minimum_level=0, without=("namespaces", "seccomp", "landlock")) as tool:
        tool.start()
        result = tool.run(program)
        assert result.text.endswith("exited with status 3") and result.seconds < 5
        assert tool.run("print(1)").text == "1"
        # Only the child of the next call is left: the program's own child was killed with the call.
        assert len(waiting_processes(idle_worker(tool))) == 1


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_child_killed_while_waiting_raises_tool_unavailable(without):
    with PythonTool(workers=1, without=without) as tool:
        assert tool.run("print(1)").text == "1"
        worker = idle_worker(tool)
        os.kill(max(waiting_processes(worker)), signal.SIGKILL)
        with pytest.raises(ToolUnavailable, match="could not be set up"):
            tool.run("print(2)")
        assert tool.run("print(3)").text == "3"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The temporary directory, in which calls without a /tmp of their own write."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_3000_nested_directories_are_removed(directory):
    with PythonTool(workers=1, without=("namespaces",), minimum_level=1) as tool:
        worker = idle_worker(tool) if tool.start() else None
        text = tool.run("import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nprint(1)").text
        assert text in ("1", usage.NO_SPACE)  # on a slow machine the worker may end the call before it is done
        assert tool.run("print(2)").text == "2" and idle_worker(tool) is worker
        (scratch,) = directory.iterdir()
        assert wait_until(lambda: len(list(scratch.iterdir())) == 1)  # the directory of the waiting call
    assert not scratch.exists()
