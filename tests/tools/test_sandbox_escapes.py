"""Hostile programs in the Python tool: they break out of nothing, leave nothing behind, and use bounded time and bytes.

Groups follow gVisor's taxonomy of attack goals: the host's files, secrets, the network in and out, other processes, the
kernel's surface, and denial of service by memory, disk, descriptors, output and time. The lists in
`tir/tools/sandbox/__init__.py` name the tests below that check each line.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest
from support.hostile import ALL, CONTROLLED, counts
from support.paths import ROOT
from support.processes import alive, descendants, sandbox_lacks, wait_until

import tir.tools.sandbox
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox import namespaces, syscalls

SHORT_LIMIT_S, LONG_LIMIT_S, SLACK_S, BYTES, MEMORY_MB = 1.0, 20.0, 0.3, 2000, 512
needs_all_barriers = pytest.mark.skipif(bool(sandbox_lacks()), reason=f"this kernel lacks {', '.join(sandbox_lacks())}")


class Canaries:
    """Targets for hostile code (files, a process, servers), and whether any was changed, killed or contacted."""

    def __init__(self, directory):
        os.chmod(directory, 0o777)
        self.secret, self.canary = directory / "secret", directory / "canary"
        self.secret.write_text("HIDDEN")
        self.canary.write_text("untouched")
        (directory / "planted.py").write_text("planted = True")
        for path in directory.iterdir():
            path.chmod(0o666)
        os.environ["TIR_TEST_SECRET"] = "HIDDEN"
        self.victim = subprocess.Popen(["sleep", "3600"], env={"TIR_TEST_SECRET": "HIDDEN", "PATH": os.environ["PATH"]})
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(self.server.getsockname())
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix_name = f"tir-test-{os.getpid()}-{directory.name}"
        self.unix.bind("\0" + self.unix_name)
        self.unix.listen()
        self.visits = 0
        for listener in (self.server, self.unix):
            threading.Thread(target=self._count, args=(listener,), daemon=True).start()
        threading.Thread(target=self._count_datagrams, daemon=True).start()
        self.names = {
            "SECRET": str(self.secret),
            "CANARY": str(self.canary),
            "DIRECTORY": str(directory),
            "PORT": str(self.server.getsockname()[1]),
            "ABSTRACT": self.unix_name,
            "VICTIM": str(self.victim.pid),
            "EVALUATOR": str(os.getpid()),
        }

    def _count(self, listener):
        while True:
            connection, _ = listener.accept()
            self.visits += 1
            connection.settimeout(0.1)
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

    def _count_datagrams(self):
        while self.datagrams.recv(100):
            self.visits += 1

    def fill_in(self, code: str) -> str:
        """The code with the names in capitals replaced by this machine's paths, ports and process ids."""
        return re.sub("|".join(self.names), lambda match: self.names[match[0]], code)

    def untouched(self) -> bool:
        return self.canary.read_text() == "untouched" and self.victim.poll() is None and self.visits == 0


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    directory = tmp_path_factory.mktemp("canaries")
    for parent in (directory.parent, directory.parent.parent):
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)  # file permissions must not hide the canaries; only the sandbox may
    canaries = Canaries(directory)
    yield canaries
    canaries.victim.kill()
    canaries.victim.wait()
    del os.environ["TIR_TEST_SECRET"]


class RecordingTool(PythonTool):
    """Keeps all output of the last call in `printed`; the result of a failed call contains only its error."""

    def _result(self, answer, seconds):
        self.printed = answer["stdout"]
        return super()._result(answer, seconds)


def make_tool(timeout_s=LONG_LIMIT_S, **options):
    return RecordingTool(workers=1, timeout_s=timeout_s, memory_mb=MEMORY_MB, output_chars=BYTES, **options)


@pytest.fixture(scope="module")
def tool(canaries):
    """A tool whose time limit lets hostile code finish all its attempts."""
    with make_tool() as tool:
        tool.start()
        yield tool


@pytest.fixture(scope="module")
def short_tool(canaries):
    """A tool with a short time limit, for code that does not end by itself."""
    with make_tool(SHORT_LIMIT_S) as tool:
        tool.start()
        yield tool


def run_hostile(tool, canaries, code):
    """Run hostile code, check everything that must hold for all of it, and return the result."""
    before = count_processes()
    for _ in range(3):  # a busy machine may delay one run; code that can exceed its limit does so in every run
        result = tool.run(canaries.fill_in(code))
        output = tool.printed + result.text
        delay = result.seconds - tool.settings.timeout_s - tool.run("print()").seconds
        if delay <= SLACK_S:
            break
    assert delay <= SLACK_S
    assert "BREACH" not in output, output
    assert "nothing to try" not in output, output
    assert len(result.text.encode("utf-8", "replace")) <= 4 * (BYTES + 3)
    assert canaries.untouched()
    assert tool.run("print(6 * 7)").text == "42"
    assert wait_until(lambda: count_processes() == before), "the call left processes behind"
    return result


def count_processes():
    """Number of processes below this one, after each worker has forked the child of its next call."""
    counts = [0]
    while len(counts) < 4 or len(set(counts[-3:])) > 1:
        time.sleep(0.03)
        counts.append(sum(map(alive, descendants(os.getpid()))))
    return counts[-1]


def programs(group):
    return pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in ALL[group].items()])


@needs_all_barriers
@programs("files")
def test_host_files(tool, canaries, code):
    run_hostile(tool, canaries, code)


@needs_all_barriers
@programs("secrets")
def test_secrets(tool, canaries, code):
    run_hostile(tool, canaries, code)


@needs_all_barriers
@programs("network")
def test_network(tool, canaries, code):
    run_hostile(tool, canaries, code)


@needs_all_barriers
@programs("processes")
def test_other_processes(tool, canaries, code):
    run_hostile(tool, canaries, code)


@needs_all_barriers
@programs("kernel")
def test_kernel_surface(tool, canaries, code):
    run_hostile(tool, canaries, code)


@programs("bombs")
def test_memory_disk_and_descriptor_bombs(short_tool, canaries, code):
    assert run_hostile(short_tool, canaries, code).status in ("error", "timeout")


@programs("output")
def test_output_floods(short_tool, canaries, code):
    run_hostile(short_tool, canaries, code)


@programs("time")
def test_time_limit(short_tool, canaries, code):
    assert run_hostile(short_tool, canaries, code).status == "timeout"


@programs("endings")
def test_endings_are_error_texts(tool, canaries, code):
    result = run_hostile(tool, canaries, code)
    assert result.status == "error" and result.text


@pytest.fixture(scope="module")
def unprotected(tmp_path_factory):
    canaries = Canaries(tmp_path_factory.mktemp("control"))
    with make_tool(minimum_level=0, without=("namespaces", "seccomp", "landlock")) as tool:
        tool.start()
        yield tool, canaries
    canaries.victim.kill()
    canaries.victim.wait()


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, codes in CONTROLLED.items() for name in codes])
def test_same_code_succeeds_without_barriers(unprotected, group, name):
    """The control experiment: code that fails even without a sandbox would prove nothing."""
    if name == "user namespace" and "namespaces" in sandbox_lacks():
        pytest.skip("this kernel refuses user namespaces to every process")
    tool, canaries = unprotected
    result = tool.run(canaries.fill_in(CONTROLLED[group][name]))
    assert "BREACH" in result.text, result.text


@pytest.mark.parametrize(
    "change",
    [
        "open('left', 'w').write('x')",
        "import math; math.pi = 3",
        "import builtins; builtins.print = None",
        "np.random.seed(1); np.left = 1",
        "import os; os.environ['LEFT'] = '1'; os.umask(0)",
        "sympy.Integer.left = 1",
        "import sys; sys.modules['math'] = None",
    ],
)
def test_calls_leave_no_state(tool, change):
    assert tool.run(change).status == "ok"
    inspect = (
        "import math, os; print(os.path.exists('left'), math.pi > 3.1, dict(os.environ), "
        "hasattr(np, 'left'), hasattr(sympy.Integer, 'left'))"
    )
    assert tool.run(inspect).text == "False True {} False False"


@pytest.mark.parametrize("missing", ["namespaces", "landlock"])
def test_files_are_inaccessible_at_level_2(canaries, missing):
    if lacking := set(sandbox_lacks()) - {missing}:
        pytest.skip(f"this kernel lacks {', '.join(lacking)}")
    with make_tool(without=(missing,)) as tool:
        assert tool.start() == 2
        for group in ("files", "network", "processes"):
            for name, code in CONTROLLED[group].items():
                if missing == "namespaces" and name == "stat":
                    continue  # Landlock does not hide the names and sizes of files
                assert "BREACH" not in tool.run(canaries.fill_in(code)).text, name
        for name in ("kill another", "kill the parent", "kill by thread", "read another's memory"):
            assert "BREACH" not in tool.run(canaries.fill_in(ALL["processes"][name])).text, name
        assert canaries.untouched()


EXCESSIVE = {
    "disk": (
        "for number in range(10): open(f'file{number}', 'wb').write(b'x' * 2**23)",
        "[Errno 28] No space left on device",
    ),
    "disk, deep": (
        "import os\nfor _ in range(9): os.mkdir('d'); os.chdir('d'); open('f', 'wb').write(b'x' * 2**23)",
        "[Errno 28] No space left on device",
    ),
    "entries": ("for number in range(5000): open(f'f{number}', 'w').close()", "[Errno 28] No space left on device"),
    "threads": (
        "import threading\nthreading.stack_size(65536)\n"
        "for _ in range(100): threading.Thread(target=time.sleep, args=(50,)).start()",
        "can't start new thread",
    ),
}


@pytest.mark.parametrize("resource", EXCESSIVE)
def test_disk_and_threads_without_namespaces(canaries, resource):
    """Without namespaces the kernel has no limit per call; the worker checks and ends a call that uses too much."""
    code, message = EXCESSIVE[resource]
    with make_tool(without=("namespaces",), minimum_level=0) as tool:
        tool.start()
        result = run_hostile(tool, canaries, f"import time\n{code}\ntime.sleep(15)\nprint('BREACH')")
        assert (result.status, result.text) == ("error", message)
        allowed = (
            "import time\nfor n in range(7): open(f'f{n}', 'wb').write(b'x' * 2**23)\ntime.sleep(1)\nprint('done')"
        )
        assert tool.run(allowed).text == "done"


def test_files_are_bounded_by_size_and_number(canaries):
    """The worker's check of the directory does not see deleted files; resource limits bound them."""
    code = (
        "import os\nheld = []\ntry:\n    while True:\n"
        "        file = open('f', 'wb'); held.append(file); os.unlink('f')\n"
        "        try: file.write(b'x' * 2**25); file.flush(); print('BREACH')\n        except OSError: pass\n"
        "        file.truncate(0)\nexcept OSError: print(len(held) < 64)"
    )
    with make_tool(without=("namespaces",), minimum_level=0) as tool:
        assert tool.run(code).text == "True"


@needs_all_barriers
def test_mounts_are_read_only_on_kernels_without_mount_setattr(monkeypatch):
    monkeypatch.setattr(namespaces, "_SYS_MOUNT_SETATTR", 9999)  # a system call number that no kernel has
    sources = namespaces.system_files()
    child = os.fork()
    if child == 0:
        try:
            inside = namespaces.Namespaces(sources)
            for path in (*sources, "/", "/dev/null"):
                assert os.statvfs(path).f_flag & os.ST_RDONLY, path
            call = inside.fork()
            if call == 0:
                inside.enter_call()
                with open("/tmp/x", "w") as file, open("/dev/null", "w") as null:
                    file.write("x"), null.write("x")
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(call, 0)[1]))
        except BaseException as error:  # noqa: BLE001
            print(error, file=sys.stderr, flush=True)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_files_are_accessible_at_level_1(canaries):
    with make_tool(minimum_level=1, without=("namespaces", "landlock")) as tool:
        assert tool.start() == 1
        assert tool.run(canaries.fill_in("print(open('SECRET').read())")).text == "HIDDEN"
        for group in ("network", "processes"):
            for name, code in CONTROLLED[group].items():
                if name not in ("see another", "see the parent", "list of processes"):
                    assert "BREACH" not in tool.run(canaries.fill_in(code)).text, name


def test_installation_is_readable(tool):
    code = (
        "import scipy.optimize\n"
        "root = scipy.optimize.root_scalar(lambda t: t - 2, bracket=[0, 5]).root\n"
        "print(open(np.__file__).read() != '', root)"
    )
    assert tool.run(code).text == "True 2.0"


@needs_all_barriers
def test_threads_use_all_cores(tool):
    assert tool.run("import os; print(len(os.sched_getaffinity(0)))").text == str(len(os.sched_getaffinity(0)))


def test_memory_is_bounded_per_call(tool):
    assert tool.run(f"print(len(bytearray({MEMORY_MB // 4} * 2**20)))").status == "ok"
    assert tool.run(f"print(len(bytearray({MEMORY_MB} * 2**20)))").status == "error"


def test_allow_list_is_short():
    dangerous = {"execve", "fork", "socket", "connect", "mount", "ptrace", "bpf", "io_uring_setup"}
    assert len(syscalls.ALLOWED) < 200 and not dangerous & set(syscalls.ALLOWED)


def test_clock_and_kernel_version_are_visible(tool):
    text = tool.run("import os, time; print(os.uname().release, time.time() > 1.7e9)").text
    assert text == f"{os.uname().release} True"


VISIBLE = {
    "memory of the machine, total and free": "os.sysconf('SC_PHYS_PAGES')",
    "load and time since the machine's start": "round(time.monotonic() / 1000)",
    "number of cores": "os.cpu_count()",
    "size and free space of the disk that has the Python installation": "os.statvfs(np.__file__).f_blocks",
    "number of the user, 65534 if root runs the tool": "os.getuid() or 65534",
    "paths of the Python installation, often with a user's name in them": "(sys.prefix, os.path.realpath(np.__file__))",
    "wall clock and kernel version": "(round(time.time() / 1000), os.uname().release)",
}


@needs_all_barriers
@pytest.mark.parametrize("fact", VISIBLE)
def test_what_remains_visible(tool, fact):
    def value():
        return str(eval(VISIBLE[fact], {"os": os, "sys": sys, "time": time, "np": numpy}))

    before, seen = value(), tool.run(f"import os, sys, time\nprint({VISIBLE[fact]})").text
    assert seen in (before, value())


def test_the_page_names_what_remains_visible_and_counts_the_programs():
    page = (ROOT / "docs/sandbox.md").read_text(encoding="utf-8")
    table = page.partition("## What a program still sees")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)[2:] == list(VISIBLE)
    assert counts() in page, f"paste this into docs/sandbox.md:\n{counts()}"


def test_every_line_of_the_package_docstring_names_a_test():
    text = tir.tools.sandbox.__doc__
    lines = re.findall(r"^- (.*)$", text[text.index("\nCovered") :], re.MULTILINE)
    assert len(lines) == text.count("\n- ") >= 15
    names = [line.rpartition(": ")[2] for line in lines]
    assert len(set(names)) == len(names)
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_sandbox_*.py"))
    for name in names:
        assert f"def {name}(" in tests, f"no test {name}"
