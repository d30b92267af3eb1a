"""Hostile code against the Python tool: no breach, nothing left behind, bounded time and bytes.

Groups follow gVisor's taxonomy of what an escape is for: the host's files, secrets, the network in and out, other
processes, the kernel's surface, and denial of service by memory, disk, descriptors, output and time. The lists of
`tir/tools/sandbox/__init__.py` name the tests that stand behind them.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import test_sandbox_calls
from hostile import ALL, CONTROLLED
from processes import alive, descendants, sandbox_lacks, wait_until

import tir.tools.sandbox
from tir.tools.python_tool import PythonTool
from tir.tools.sandbox import namespaces, syscalls

LIMIT_S, PATIENT_S, SLACK_S, BYTES, MEMORY_MB = 1.0, 20.0, 0.3, 2000, 512
needs_all = pytest.mark.skipif(bool(sandbox_lacks()), reason=f"this kernel lacks {', '.join(sandbox_lacks())}")


class Canaries:
    """What hostile code is after, and whether it was touched."""

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
        self.names = {"SECRET": str(self.secret), "CANARY": str(self.canary), "DIRECTORY": str(directory),
                      "PORT": str(self.server.getsockname()[1]), "ABSTRACT": self.unix_name,
                      "VICTIM": str(self.victim.pid), "EVALUATOR": str(os.getpid())}

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
        return re.sub("|".join(self.names), lambda match: self.names[match[0]], code)

    def untouched(self) -> bool:
        return self.canary.read_text() == "untouched" and self.victim.poll() is None and self.visits == 0


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    directory = tmp_path_factory.mktemp("canaries")
    for parent in (directory.parent, directory.parent.parent):
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)  # hidden by the sandbox, not by its permissions
    canaries = Canaries(directory)
    yield canaries
    canaries.victim.kill()
    canaries.victim.wait()
    del os.environ["TIR_TEST_SECRET"]


class Overheard(PythonTool):
    """Keeps all that a call printed; a result without success shows only its error."""

    def _result(self, answer, seconds):
        self.printed = answer["stdout"]
        return super()._result(answer, seconds)


def make_tool(timeout_s=PATIENT_S, **options):
    return Overheard(workers=1, timeout_s=timeout_s, memory_mb=MEMORY_MB, output_chars=BYTES, **options)


@pytest.fixture(scope="module")
def tool(canaries):
    """Time enough to try everything."""
    with make_tool() as tool:
        tool.start()
        yield tool


@pytest.fixture(scope="module")
def brief(canaries):
    """For code that does not want to end."""
    with make_tool(LIMIT_S) as tool:
        tool.start()
        yield tool


def assault(tool, canaries, code):
    """Run hostile code and check what must hold whatever it does; returns what it said."""
    before = living()
    for _ in range(3):  # a machine busy with other things may be late; code that can hold on is late every time
        result = tool.run(canaries.fill_in(code))
        said = tool.printed + result.text
        late = result.seconds - tool.timeout_s - tool.run("print()").seconds
        if late <= SLACK_S:
            break
    assert late <= SLACK_S
    assert "BREACH" not in said, said
    assert "nothing to try" not in said, said
    assert len(result.text.encode("utf-8", "replace")) <= 4 * (BYTES + 3)
    assert canaries.untouched()
    assert tool.run("print(6 * 7)").text == "42"
    assert wait_until(lambda: living() == before), "something is left behind"
    return result


def living():
    """How many processes run below this one, once each worker has forked the child of its next call."""
    counts = [0]
    while len(counts) < 4 or len(set(counts[-3:])) > 1:
        time.sleep(0.03)
        counts.append(sum(map(alive, descendants(os.getpid()))))
    return counts[-1]


def of(*groups):
    return pytest.mark.parametrize("code", [pytest.param(code, id=f"{group}: {name}")
                                            for group in groups for name, code in ALL[group].items()])


@needs_all
@of("files")
def test_host_files(tool, canaries, code):
    assault(tool, canaries, code)


@needs_all
@of("secrets")
def test_secrets(tool, canaries, code):
    assault(tool, canaries, code)


@needs_all
@of("network")
def test_network(tool, canaries, code):
    assault(tool, canaries, code)


@needs_all
@of("processes")
def test_other_processes(tool, canaries, code):
    assault(tool, canaries, code)


@needs_all
@of("kernel")
def test_kernel_surface(tool, canaries, code):
    assault(tool, canaries, code)


@of("bombs")
def test_memory_disk_and_descriptor_bombs(brief, canaries, code):
    assert assault(brief, canaries, code).status in ("error", "timeout")


@of("output")
def test_output_floods(brief, canaries, code):
    assault(brief, canaries, code)


@of("time")
def test_time_limit(brief, canaries, code):
    assert assault(brief, canaries, code).status == "timeout"


@of("endings")
def test_endings_are_error_texts(tool, canaries, code):
    result = assault(tool, canaries, code)
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
def test_without_barriers_the_same_code_succeeds(unprotected, group, name):
    """The control: a piece of code that fails everywhere would prove nothing about the sandbox."""
    if name == "user namespace" and "namespaces" in sandbox_lacks():
        pytest.skip("this kernel refuses it to everyone")
    tool, canaries = unprotected
    result = tool.run(canaries.fill_in(CONTROLLED[group][name]))
    assert "BREACH" in result.text, result.text


@pytest.mark.parametrize("leave", ["open('left', 'w').write('x')", "import math; math.pi = 3",
                                   "import builtins; builtins.print = None", "np.random.seed(1); np.left = 1",
                                   "import os; os.environ['LEFT'] = '1'; os.umask(0)", "sympy.Integer.left = 1",
                                   "import sys; sys.modules['math'] = None"])
def test_calls_leave_nothing_for_the_next(tool, leave):
    assert tool.run(leave).status == "ok"
    look = "import math, os; print(os.path.exists('left'), math.pi > 3.1, dict(os.environ), hasattr(np, 'left'), hasattr(sympy.Integer, 'left'))"
    assert tool.run(look).text == "False True {} False False"


@pytest.mark.parametrize("missing", ["namespaces", "landlock"])
def test_files_stay_closed_at_level_2(canaries, missing):
    if lacking := set(sandbox_lacks()) - {missing}:
        pytest.skip(f"this kernel lacks {', '.join(lacking)}")
    with make_tool(without=(missing,)) as tool:
        assert tool.start() == 2
        for group in ("files", "network", "processes"):
            for name, code in CONTROLLED[group].items():
                if missing == "namespaces" and name == "stat":
                    continue  # Landlock leaves names and sizes in sight
                assert "BREACH" not in tool.run(canaries.fill_in(code)).text, name
        for name in ("kill another", "kill the parent", "kill by thread", "read another's memory"):
            assert "BREACH" not in tool.run(canaries.fill_in(ALL["processes"][name])).text, name
        assert canaries.untouched()


TAKES_TOO_MUCH = {
    "disk": ("for number in range(10): open(f'file{number}', 'wb').write(b'x' * 2**23)", "[Errno 28] No space left on device"),
    "disk, deep": ("import os\nfor _ in range(9): os.mkdir('d'); os.chdir('d'); open('f', 'wb').write(b'x' * 2**23)",
                   "[Errno 28] No space left on device"),
    "entries": ("for number in range(5000): open(f'f{number}', 'w').close()", "[Errno 28] No space left on device"),
    "threads": ("import threading\nthreading.stack_size(65536)\n"
                "for _ in range(100): threading.Thread(target=time.sleep, args=(50,)).start()", "can't start new thread"),
}


@pytest.mark.parametrize("what", TAKES_TOO_MUCH)
def test_disk_and_threads_are_looked_at_without_namespaces(canaries, what):
    """No kernel limit holds for one call there, so a call that has taken too much is found and ended."""
    code, words = TAKES_TOO_MUCH[what]
    with make_tool(without=("namespaces",), minimum_level=0) as tool:
        tool.start()
        result = assault(tool, canaries, f"import time\n{code}\ntime.sleep(15)\nprint('BREACH')")
        assert (result.status, result.text) == ("error", words)
        within = "import time\nfor n in range(7): open(f'f{n}', 'wb').write(b'x' * 2**23)\ntime.sleep(1)\nprint('done')"
        assert tool.run(within).text == "done"


def test_files_are_bounded_by_size_and_number(canaries):
    """Deleted files take space that no look at the directory finds."""
    code = "import os\nheld = []\ntry:\n    while True:\n        file = open('f', 'wb'); held.append(file); os.unlink('f')\n" \
           "        try: file.write(b'x' * 2**25); file.flush(); print('BREACH')\n        except OSError: pass\n" \
           "        file.truncate(0)\nexcept OSError: print(len(held) < 64)"
    with make_tool(without=("namespaces",), minimum_level=0) as tool:
        assert tool.run(code).text == "True"


@needs_all
def test_an_older_kernel_makes_mounts_read_only_one_by_one(monkeypatch):
    monkeypatch.setattr(namespaces, "_SYS_MOUNT_SETATTR", 9999)  # a number no kernel has
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


def test_files_are_open_at_level_1(canaries):
    with make_tool(minimum_level=1, without=("namespaces", "landlock")) as tool:
        assert tool.start() == 1
        assert tool.run(canaries.fill_in("print(open('SECRET').read())")).text == "HIDDEN"
        for group in ("network", "processes"):
            for name, code in CONTROLLED[group].items():
                if name not in ("see another", "see the parent", "list of processes"):
                    assert "BREACH" not in tool.run(canaries.fill_in(code)).text, name


def test_the_installation_can_be_read(tool):
    assert tool.run("import scipy.optimize\nprint(open(np.__file__).read() != '', scipy.optimize.root_scalar(lambda t: t - 2, bracket=[0, 5]).root)").text == "True 2.0"


@needs_all
def test_threads_use_all_cores(tool):
    assert tool.run("import os; print(len(os.sched_getaffinity(0)))").text == str(len(os.sched_getaffinity(0)))


def test_memory_is_bounded_per_call(tool):
    assert tool.run(f"print(len(bytearray({MEMORY_MB // 4} * 2**20)))").status == "ok"
    assert tool.run(f"print(len(bytearray({MEMORY_MB} * 2**20)))").status == "error"


def test_the_allow_list_is_short():
    allowed = len(syscalls.ALLOWED)
    assert allowed < 200 and not {"execve", "fork", "socket", "connect", "mount", "ptrace", "bpf", "io_uring_setup"} & set(syscalls.ALLOWED)


def test_clock_and_kernel_are_seen(tool):
    assert tool.run("import os, time; print(os.uname().release, time.time() > 1.7e9)").text == f"{os.uname().release} True"


def test_every_line_of_the_lists_names_a_test():
    text = tir.tools.sandbox.__doc__
    lines = re.findall(r"^- (.*)$", text[text.index("\nCovered") :], re.MULTILINE)
    assert len(lines) == text.count("\n- ") >= 15
    names = [line.rpartition(": ")[2] for line in lines]
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(sys.modules[__name__], name) or hasattr(test_sandbox_calls, name), f"no test {name}"


def test_the_suite_is_as_large_as_it_says():
    assert sum(map(len, ALL.values())) >= 120
