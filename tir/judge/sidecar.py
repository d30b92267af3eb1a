"""A judge's server beside a job: started when the first question must be asked, ended with the job."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tir import subprocesses
from tir.errors import JudgeUnavailable

_DRAIN_S = 10.0


def command(engine: str, model: str | os.PathLike, name: str, port: int, gpus: int) -> list[str]:
    """The command line of a server: vLLM's, or the small one of this package."""
    shared = ["--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    if engine == "vllm":
        more = ["--tensor-parallel-size", str(gpus), "--max-model-len", "4096", "--seed", "0"]
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *shared, *more]
    return [sys.executable, "-m", "tir.judge.server", *shared]


@contextlib.contextmanager
def judge_server(make_command: Callable[[int], list[str]], *, log_path: str | os.PathLike,
                 ready_timeout_s: float = 1800.0) -> Iterator[Callable[[], str]]:
    """Yield a function that gives the server's URL; the server is started by its first call.

    Args:
        make_command: port -> command line.
        log_path: the server's output.
        ready_timeout_s: seconds until /health must answer; 145 GB of weights are read first at paper scale.

    Raises `JudgeUnavailable` with the server's last words if it ends or is not ready in time.
    """
    started: list[tuple[subprocess.Popen, str]] = []

    def endpoint() -> str:
        if not started:
            port = _free_port()
            process = _start(make_command(port), log_path)
            started.append((process, f"http://127.0.0.1:{port}"))
            _wait(process, started[0][1], Path(log_path), ready_timeout_s)
        return started[0][1]

    try:
        yield endpoint
    finally:
        for process, _ in started:
            subprocesses.end(process, _DRAIN_S)


def _start(arguments: list[str], log_path: str | os.PathLike) -> subprocess.Popen:
    Path(log_path).parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("setpriv"):  # a job killed outright takes its server along
        arguments = ["setpriv", "--pdeathsig", "TERM", *arguments]
    return subprocesses.start(arguments, log_path)


def _wait(process: subprocess.Popen, url: str, log_path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _fault(f"ended with status {process.returncode} while starting", log_path)
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise _fault(f"not ready within {timeout_s:.0f} s", log_path)


def _fault(why: str, log_path: Path) -> JudgeUnavailable:
    return JudgeUnavailable("the judge's server", where="sidecar", why=f"{why}: {subprocesses.last_words(log_path)}",
                            remedy=f"see {log_path}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
