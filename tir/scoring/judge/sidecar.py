"""A judge's server beside a job: started at the first uncached request, stopped with the job."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from tir.common.errors import JudgeUnavailable
from tir.common.sidecar import Sidecar

_GRACE_S = 10.0


@contextlib.contextmanager
def judge_server(
    make_command: Callable[[int], list[str]], *, log_path: str | os.PathLike, ready_timeout_s: float = 1800.0
) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the server's URL; its first call starts the server.

    Args:
        make_command: port -> command line.
        log_path: file for the server's output.
        ready_timeout_s: seconds until the server must be ready; at paper scale it loads 145 GB of weights.

    The function raises `JudgeUnavailable`, with the end of the log, if the server ends or is not ready in time.
    """

    def fault(why: str) -> JudgeUnavailable:
        return JudgeUnavailable("the judge's server does not run", where="sidecar", why=why, remedy=f"see {log_path}")

    server = Sidecar(make_command, fault, log_path, _GRACE_S)

    def endpoint() -> str:
        if server.process is None:
            server.start()
            server.wait(time.monotonic() + ready_timeout_s)
        return server.url

    try:
        yield endpoint
    finally:
        server.stop()
