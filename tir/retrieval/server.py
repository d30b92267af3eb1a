"""Retrieval server with FlashRAG's HTTP interface (UPSTREAM.md 1.7), micro-batched.

    GET  /health                                        {"status": "healthy", "retrievers": {"total", "available"}}
    POST /search       {query, top_n=10, return_score}  [{id, contents}, ...]  or  [[...], [scores]]
    POST /batch_search {query: [...], top_n, ...}       [[...], ...]           or  [[[...], ...], [[scores], ...]]

Every answer carries the index digest in `x-index-digest`. With TIR_SEARCH_TOKEN set, searches need
`Authorization: Bearer TOKEN`. Run: `python -m tir.retrieval.server --index DIR [--port 1243] [--host 127.0.0.1]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import hmac
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field

from tir.cli import run
from tir.errors import ConfigError, InfrastructureFault, TirError
from tir.records import write_json
from tir.retrieval.batching import MicroBatcher
from tir.retrieval.index import Index, load_index
from tir.surrogates import whole_text

TOKEN_VARIABLE = "TIR_SEARCH_TOKEN"
DEFAULT_PORT = 1243
DRAIN_S = 10  # how long requests in flight may take after SIGTERM
_ACCEPT_S = 0.1  # how long connections are still accepted after it
Query = Annotated[str, AfterValidator(whole_text)]  # a tokenizer refuses half a character, and the batch with it


class SearchRequest(BaseModel):
    """Body of /search."""

    query: Query
    top_n: int = Field(default=10, ge=1, le=1000)
    return_score: bool = False


class BatchSearchRequest(BaseModel):
    """Body of /batch_search."""

    query: list[Query] = Field(max_length=4096)
    top_n: int = Field(default=10, ge=1, le=1000)
    return_score: bool = False


def create_app(index: Index, *, token: str | None = None, max_batch: int = 256, window_s: float = 0.005,
               cache_size: int = 10_000) -> FastAPI:
    """The application over one index.

    Args:
        index: answers searches on one worker thread.
        token: if given, searches without it are refused with 401.
        max_batch, window_s, cache_size: see `MicroBatcher`.
    """
    batcher = MicroBatcher(index, max_batch=max_batch, window_s=window_s, cache_size=cache_size)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    async def authorised(request: Request) -> None:  # a plain function would cross a thread for every request
        given = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(given.encode("latin-1"), f"Bearer {token}".encode()):
            raise HTTPException(401, f"searches need the token in {TOKEN_VARIABLE}", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="retrieval", lifespan=lifespan, openapi_url=None)
    app.state.batcher = batcher
    identity = {"x-index-digest": index.digest}

    async def find(queries: list[str], top_n: int) -> tuple[list, list]:
        try:
            found = await batcher.search(queries, top_n)
        except TirError as error:
            raise HTTPException(500, str(error)) from error
        documents = [[{"id": passage.id, "contents": passage.contents} for passage in passages] for passages in found]
        return documents, [[passage.score for passage in passages] for passages in found]

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        # FastAPI's own answer shows the value, and JSON has no NaN or infinity to show.
        return JSONResponse({"detail": [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]}, 422)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "healthy", "retrievers": {"total": 1, "available": 1}}, headers=identity)

    @app.post("/search", dependencies=[Depends(authorised)])
    async def search(body: SearchRequest) -> Response:
        if not body.query.strip():
            raise HTTPException(400, "the query is blank")
        documents, scores = await find([body.query], body.top_n)
        return JSONResponse([documents[0], scores[0]] if body.return_score else documents[0], headers=identity)

    @app.post("/batch_search", dependencies=[Depends(authorised)])
    async def batch_search(body: BatchSearchRequest) -> Response:
        documents, scores = await find(body.query, body.top_n)
        return JSONResponse([documents, scores] if body.return_score else documents, headers=identity)

    return app


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: no such address or port. InfrastructureFault: the port is taken or not ours to use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for old connections
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except socket.gaierror as error:
        listener.close()
        raise ConfigError("no such address", where=f"--host {host}", why=error.strerror, remedy="--host 127.0.0.1") from None
    except OverflowError:
        listener.close()
        raise ConfigError("no such port", where=f"--port {port}", why="ports end at 65535", remedy="--port 0 picks a free one") from None
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise InfrastructureFault("port taken" if taken else "cannot bind", where=f"{host}:{port}",
                                  why="another process listens there" if taken else error.strerror or str(error),
                                  remedy="--port 0 picks a free one; `ss -ltnp` shows who holds it" if taken
                                  else "--host with an address of this machine, --port from 1024") from None
    return listener


def exit_with(parent: int) -> None:
    """End this process when process `parent` does: SIGTERM to ourselves, and a hard exit if draining hangs."""
    def watch() -> None:
        try:
            select.select([os.pidfd_open(parent)], [], [])  # readable once the process has ended
        except OSError:  # it has ended already, or the kernel is older than 5.3
            while os.path.exists(f"/proc/{parent}"):
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(DRAIN_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def serve(index_directory: str, *, host: str = "127.0.0.1", port: int = DEFAULT_PORT, endpoint_file: str | None = None,
          model: str | None = None, device: str = "auto", threads: int = 0, cache_size: int = 10_000) -> None:
    """Load an index and serve it until SIGTERM or SIGINT; requests in flight are answered first.

    Args:
        index_directory: see `load_index`.
        host, port: where to listen; port 0 picks a free one.
        endpoint_file: JSON {host, port, pid, index} written once requests are answered, removed at the end.
        model, device, threads: see `load_index`.
        cache_size: results remembered.
    """
    import uvicorn

    started = time.monotonic()
    listener = bind(host, port)
    port = listener.getsockname()[1]
    index = load_index(index_directory, model=model, device=device, threads=threads)
    print(f"retrieval budget: {index.budget()}", file=sys.stderr, flush=True)
    index.search(["warm up"], 1)  # the first pass allocates and compiles; no client shall wait for it
    token = os.environ.get(TOKEN_VARIABLE)
    app = create_app(index, token=token, cache_size=cache_size)

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            if endpoint_file and self.started:
                write_json(endpoint_file, {"host": host, "port": port, "pid": os.getpid(), "index": index.digest})
            open_to_all = host not in ("127.0.0.1", "::1", "localhost") and not token
            print(f"retrieval: {len(index):,} passages, index {index.digest}, http://{host}:{port}, "
                  f"ready after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
            if open_to_all:
                print(f"retrieval: whoever reaches this host may search; set {TOKEN_VARIABLE} to prevent it",
                      file=sys.stderr, flush=True)

        async def shutdown(self, sockets=None) -> None:
            # Requests that the kernel took and the loop has not read yet would be reset along with the listener.
            await asyncio.sleep(_ACCEPT_S)
            await super().shutdown(sockets)

    # uvicorn raises the signal again once it has drained; a clean end is status 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_S,
                                   timeout_keep_alive=75, backlog=2048))
    try:
        server.run(sockets=[listener])
    finally:
        if endpoint_file:
            with contextlib.suppress(OSError):
                os.unlink(endpoint_file)


def main() -> None:
    """Command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--index", required=True, help="index directory")
    parse.add_argument("--host", default="127.0.0.1")
    parse.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free port")
    parse.add_argument("--endpoint-file", help="JSON written once ready")
    parse.add_argument("--parent-pid", type=int, help="end when this process ends")
    parse.add_argument("--model", help="the encoder's place on this machine, if not the manifest's")
    parse.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parse.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                       help="CPU threads; all cores, and half of them (0) for a server that stands beside an engine")
    parse.add_argument("--cache-size", type=int, default=10_000, help="results remembered")
    arguments = parse.parse_args()
    if arguments.parent_pid:
        exit_with(arguments.parent_pid)
    serve(arguments.index, host=arguments.host, port=arguments.port, endpoint_file=arguments.endpoint_file,
          model=arguments.model, device=arguments.device, threads=arguments.threads, cache_size=arguments.cache_size)


if __name__ == "__main__":
    run(main)
