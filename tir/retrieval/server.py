"""The process of a retrieval server; `tir.retrieval.app` has its HTTP interfaces.

Concurrent queries are searched in batches. If TIR_SEARCH_TOKEN is set, searches need `Authorization: Bearer TOKEN`.
Run: `python -m tir.retrieval.server --index DIR [--port 1243] [--host 127.0.0.1]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from tir.common.cli import run
from tir.common.errors import ConfigError, DataError, InfrastructureFault
from tir.common.records import read_json, write_json
from tir.retrieval.app import create_app
from tir.retrieval.client import TOKEN_VARIABLE
from tir.retrieval.files import Watch, is_dense, read_manifest
from tir.retrieval.folder import BEAT_LOST_S, Heartbeat
from tir.retrieval.index import load_index

if TYPE_CHECKING:
    from fastapi import FastAPI

DEFAULT_PORT = 1243
DRAIN_S = 10  # longest time to answer requests in flight after SIGTERM
PROGRESS_EVERY_S = 10.0  # between two lines while the index is read
READ_BYTES = 8 << 20
_ACCEPT_PASSES = 10  # passes of the event loop after SIGTERM in which connections are still accepted


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 selects a free port.

    Raises:
        ConfigError: the address or port is invalid.
        InfrastructureFault: the port is taken, or this user may not use it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allow a restart before old connections time out
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except socket.gaierror as error:
        listener.close()
        raise ConfigError(
            "invalid address", where=f"--host {host}", why=error.strerror, remedy="--host 127.0.0.1"
        ) from None
    except OverflowError:
        listener.close()
        raise ConfigError(
            "invalid port", where=f"--port {port}", why="the largest port is 65535", remedy="--port 0  # a free port"
        ) from None
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise InfrastructureFault(
            "port taken" if taken else "cannot listen on this address",
            where=f"{host}:{port}",
            why="another process listens on this port" if taken else error.strerror or str(error),
            remedy="--port 0  # a free port; `ss -ltnp` shows the process that uses this one"
            if taken
            else "use --host with an address of this machine and --port from 1024",
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Calls `ready` when it has started, and answers all connections before it stops."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets=None) -> None:
        # Closing the listener resets connections that the event loop has not accepted yet: accept and read them
        # first. That takes a few passes of the event loop. One long sleep may be a single pass on a busy machine.
        for _ in range(_ACCEPT_PASSES):
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def serve(
    index_directory: str,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    endpoint_file: str | None = None,
    model: str | None = None,
    device: str = "auto",
    threads: int = 0,
    cache_size: int = 10_000,
    new_token: bool = False,
    alive: str | None = None,
    idle_s: float = math.inf,
) -> None:
    """Load an index and serve it until SIGTERM or SIGINT; then answer requests in flight and stop.

    Args:
        index_directory: see `load_index`.
        host: address to listen on.
        port: port to listen on; 0: a free port.
        endpoint_file: JSON {host, port, pid, index, dense, token} that only this user can read; written when the server
            is ready, and removed when it stops unless another server has replaced it.
        model: see `load_index`.
        device: see `load_index`.
        threads: see `load_index`.
        cache_size: number of cached results.
        new_token: require a random token, which only the endpoint file has.
        alive: stop when the text of this file has not changed for 45 s.
        idle_s: stop after so many seconds without a search.
    """
    started = time.monotonic()
    listener = bind(host, port)
    port = listener.getsockname()[1]
    watch = Watch(index_directory)
    on_gpus = device != "cpu" and Path("/dev/nvidiactl").exists()
    read_ahead(sorted(Path(index_directory).glob("vectors-*" if on_gpus else "codes-*")))
    index = load_index(index_directory, model=model, device=device, threads=threads)
    print(f"retrieval budget: {index.budget()}", file=sys.stderr, flush=True)
    index.search(["warm up"], 1)  # the first search is slow: it allocates memory and compiles
    token = secrets.token_urlsafe(32) if new_token else os.environ.get(TOKEN_VARIABLE)
    app = create_app(index, token=token, cache_size=cache_size, changed=watch.changed)
    # 0.0.0.0 is no address to connect to.
    place = {"host": socket.gethostname() if host in ("0.0.0.0", "::") else host, "port": port}
    dense = is_dense(read_manifest(index_directory))
    endpoint = {**place, "pid": os.getpid(), "index": index.digest, "dense": dense, "token": token}

    def ready() -> None:
        if endpoint_file:
            write_json(endpoint_file, endpoint, private=True)
        print(
            f"retrieval: {len(index):,} passages, index {index.digest}, http://{host}:{port}, "
            f"ready after {time.monotonic() - started:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        if host not in ("127.0.0.1", "::1", "localhost") and not token:
            print(
                f"retrieval: any machine that can connect to this host may search; set {TOKEN_VARIABLE} to require "
                "a token",
                file=sys.stderr,
                flush=True,
            )

    # uvicorn raises SIGTERM again after the shutdown; ignore it, so that the exit status is 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
            timeout_keep_alive=75,
            backlog=2048,
        ),
        ready,
    )
    threading.Thread(target=_end_when_unused, args=(server, app, alive, idle_s), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        # Only its own file: a later server may have written another one, e.g. after a restart.
        with contextlib.suppress(OSError, DataError):
            if endpoint_file and read_json(endpoint_file) == endpoint:
                os.unlink(endpoint_file)


def _end_when_unused(server: uvicorn.Server, app: FastAPI, alive: str | None, idle_s: float) -> None:
    """Stop the server after `idle_s` seconds without a search, or when its keeper's heartbeat has stopped."""
    heartbeat, app.state.searched = Heartbeat(alive) if alive else None, time.monotonic()
    while not server.should_exit:
        time.sleep(1)
        if time.monotonic() - app.state.searched > idle_s:
            why = f"no search for {idle_s:g} s"
        elif heartbeat and heartbeat.lost():
            why = f"{alive} has not changed for {BEAT_LOST_S:g} s: the run that needed this server is over"
        else:
            continue
        print(f"retrieval: {why}; stopping", file=sys.stderr, flush=True)
        server.should_exit = True


def read_ahead(files: Sequence[Path]) -> None:
    """Read files once in order, so that the operating system has them in memory when the index is loaded."""
    total, done = sum(file.stat().st_size for file in files), 0
    buffer, started = bytearray(READ_BYTES), time.monotonic()
    printed = started
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                done, now = done + count, time.monotonic()
                if now - printed > PROGRESS_EVERY_S or done == total and now - started > PROGRESS_EVERY_S:
                    printed = now
                    print(
                        f"retrieval: read {done / 1e9:.1f} of {total / 1e9:.1f} GB, "
                        f"{done / 1e6 / (now - started):,.0f} MB/s",
                        file=sys.stderr,
                        flush=True,
                    )


def add_options(parse: argparse.ArgumentParser) -> None:
    """Add all options of `serve_from` except the index."""
    parse.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parse.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"0: a free port (default: {DEFAULT_PORT})")
    parse.add_argument(
        "--endpoint-file", help="write a private JSON file with host, port, pid, index and token when ready"
    )
    parse.add_argument("--model", help="directory of the encoder (default: the copy in the index)")
    parse.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="device for the search")
    parse.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="CPU threads (default: all cores); 0: half of the cores, for a server beside an engine",
    )
    parse.add_argument("--cache-size", type=int, default=10_000, help="number of cached results")
    parse.add_argument(
        "--new-token", action="store_true", help="require a random token, which only the endpoint file has"
    )
    parse.add_argument("--alive", help="stop when the text of this file has not changed for 45 s")
    parse.add_argument("--idle-s", type=float, default=math.inf, help="stop after so many seconds without a search")


def serve_from(arguments: argparse.Namespace) -> None:
    """Run `serve` with parsed command-line arguments."""
    serve(
        arguments.index,
        host=arguments.host,
        port=arguments.port,
        endpoint_file=arguments.endpoint_file,
        model=arguments.model,
        device=arguments.device,
        threads=arguments.threads,
        cache_size=arguments.cache_size,
        new_token=arguments.new_token,
        alive=arguments.alive,
        idle_s=arguments.idle_s,
    )


def main() -> None:
    """Command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--index", required=True, help="index directory")
    add_options(parse)
    serve_from(parse.parse_args())


if __name__ == "__main__":
    run(main)
