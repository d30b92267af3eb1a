"""Start Python processes as forks of one that has imported all modules; a CPU run then starts in half the time.

A verl run has eight Python processes, and each imports the same 5,000 modules in 10 to 25 s of CPU time; on two cores
that is most of a short run. Here the driver imports the modules once and forks a server. Ray and multiprocessing start
a stand-in instead of Python. It requests a fork from the server, and runs until the forked process exits:

    raylet ── exec ──> stand-in ── request: argv, environment, file descriptors ──> server ── fork ──> worker
                          ^─────────────────── exit status ───────────────────────────┘

The stand-in is this file, run with `-I -S` (30 ms). It runs only the listed scripts and the processes of
multiprocessing as forks. All others get the real Python: Ray's agents must be children of the process that started
them, and the sandbox would fork half a gigabyte of modules for each program. For CPUs only: a process with a CUDA
context cannot be forked.
"""

from __future__ import annotations

import array
import json
import os
import shlex
import signal
import socket
import struct
import sys

_CHUNK = 1 << 16
_MAX_FDS = 64
_MULTIPROCESSING = "from multiprocessing."  # its programs for `-c` begin so


# --- the stand-in: imports only the standard library ----------------------------------------------------------------


def stand_in(address: str, arguments: list[str]) -> int:
    """Run `python ARGUMENTS` as a fork of the server at `address`; return its exit status."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(address)
    descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    descriptors = [fd for fd in sorted(descriptors) if fd != connection.fileno() and _is_open(fd)]
    request = {"argv": arguments, "environment": dict(os.environ), "directory": os.getcwd(), "descriptors": descriptors}
    payload = json.dumps(request).encode()
    connection.sendmsg(
        [struct.pack("!I", len(payload))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    )
    connection.sendall(payload)
    child = struct.unpack("!i", _receive(connection, 4))[0]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    status = _receive(connection, 4)
    return struct.unpack("!i", status)[0] if len(status) == 4 else 1


def _is_forked(arguments: list[str], scripts: list[str]) -> bool:
    program = _without_options(arguments)
    if program[:1] == ["-c"]:
        return program[1].startswith(_MULTIPROCESSING)
    return bool(program) and os.path.basename(program[0]) in scripts


def _without_options(arguments: list[str]) -> list[str]:
    """Drop Python's options (-u, -B, -X name, ...), because a fork cannot apply them."""
    while arguments and arguments[0].startswith("-") and arguments[0] != "-c":
        arguments = arguments[2 if arguments[0] == "-X" else 1 :]
    return arguments


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(min(_CHUNK, size - len(data)))
        if not chunk:
            return data
        data += chunk
    return data


# --- setup in the driver ----------------------------------------------------------------------------------------


def write_stand_in(path: str, address: str, scripts: tuple[str, ...]) -> None:
    """Write the stand-in, an executable that replaces the Python executable.

    Args:
        path: the file; `path ARGUMENTS` behaves like `python ARGUMENTS`.
        address: socket address of the server (see `start`).
        scripts: names of script files that run as forks of the server; the processes of multiprocessing do so too.
    """
    words = (sys.executable, "-I", "-S", __file__, address, sys.executable, ",".join(scripts))
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, words))} "$@"\n')
    os.chmod(path, 0o700)


def use_stand_in(path: str) -> None:
    """Make this process and its forks use the stand-in as Python executable (`sys.executable`, multiprocessing)."""
    import multiprocessing

    sys.executable = path
    multiprocessing.set_executable(path)


# --- the server -----------------------------------------------------------------------------------------------------


def start(address: str) -> None:
    """Fork the server from this process; it exits with this process. Call before any connection is opened.

    Raises `RuntimeError` if this process has threads, except those of jemalloc, because forks would lack them.
    """
    from tir.common.subprocesses import end_with_parent  # not at the top: the stand-in cannot import `tir`

    threads = _threads()
    if threads:
        raise RuntimeError(f"cannot fork a process with threads: {', '.join(threads)}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    parent = os.getpid()
    if os.fork():
        listener.close()
        return
    end_with_parent(signal.SIGKILL, parent)
    try:
        _serve(listener)
    finally:
        os._exit(0)


def _threads() -> list[str]:
    """Names of this process's other threads, except those of jemalloc, which restarts them after a fork."""
    names = []
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
                names.append(file.read().strip())
    return [name for name in names if not name.startswith("jemalloc")]


def _serve(listener: socket.socket) -> None:
    import selectors

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector, children = selectors.DefaultSelector(), {}
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select(timeout=0.05):
            if key.fileobj is listener:
                connection, _ = listener.accept()
                child = _fork_for(connection, listener)
                if child:
                    children[child] = connection
                    selector.register(connection, selectors.EVENT_READ)
            else:  # the connection closed because the stand-in was killed: kill its process too
                selector.unregister(key.fileobj)
                for child in [child for child, connection in children.items() if connection is key.fileobj]:
                    _kill(child)
        _reap(selector, children)


def _reap(selector, children: dict[int, socket.socket]) -> None:
    while children:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        connection = children.pop(child, None)
        if connection is None:
            continue
        try:
            connection.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status) & 0xFF))
            selector.unregister(connection)
        except (OSError, KeyError):
            pass
        connection.close()


def _kill(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _fork_for(connection: socket.socket, listener: socket.socket) -> int:
    """Fork for one request. Returns the child's process id in the server, and never returns in the child."""
    header, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(_MAX_FDS * 4))
    if len(header) < 4:
        connection.close()
        return 0
    received = array.array("i")
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    request = json.loads(_receive(connection, struct.unpack("!I", header)[0]))
    child = os.fork()
    if child:
        for descriptor in received:
            os.close(descriptor)
        connection.sendall(struct.pack("!i", child))
        return child
    status = 1
    try:
        listener.close()
        connection.close()
        _become(request, list(received))
        status = _run(request["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _become(request: dict, received: list[int]) -> None:
    """Set up the forked process as exec would: descriptors, environment, directory, signals, random state."""
    import random

    spare = max([*request["descriptors"], *received, 2]) + 1
    moved = []
    for descriptor in received:  # move to unused numbers first, because a target number may still be in use
        os.dup2(descriptor, spare)
        os.close(descriptor)
        moved.append(spare)
        spare += 1
    for descriptor, target in zip(moved, request["descriptors"], strict=True):
        os.dup2(descriptor, target, inheritable=True)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    _own_threads()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    random.seed()


def _own_threads() -> None:
    """Set the number of threads, which libraries read at import; the server has one thread, so that it can fork."""
    if "TIR_THREADS" in os.environ and "torch" in sys.modules:
        threads = int(os.environ["TIR_THREADS"])
        sys.modules["torch"].set_num_threads(threads)
        queue = sys.modules.get("transfer_queue.utils.common")
        if queue is not None:  # after each transfer it restores the number that it read at import
            queue.DEFAULT_TORCH_NUM_THREADS = threads


def _run(arguments: list[str]) -> int:
    """Do what `python ARGUMENTS` does, for the two forms that Ray and multiprocessing use: a script, and `-c`."""
    import runpy
    import types

    arguments = _without_options(arguments)
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = list(arguments)
        sys.path[0] = os.path.dirname(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    _address, _python, _scripts, *_arguments = sys.argv[1:]
    if _is_forked(_arguments, _scripts.split(",")):
        sys.exit(stand_in(_address, _arguments))
    os.execv(_python, [_python, *_arguments])
