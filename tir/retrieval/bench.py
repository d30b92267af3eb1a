"""Throughput and latency of this server beside one built as upstream's, on the same index, in one run.

Upstream's server (UPSTREAM.md 1.7) searches inside an `async def` handler: one query at a time, and nothing else is
answered meanwhile. `upstream_app` is that design over our own index, so that the difference measured is the serving.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tir.retrieval.index import Index


@dataclass(frozen=True)
class Load:
    """What one closed loop of clients measured: queries per second, latencies in ms, /health's worst latency in ms."""

    clients: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    health_ms: float


def upstream_app(index: Index):
    """FastAPI application that blocks its event loop for every search, as upstream's does."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        query: str
        top_n: int = 10

    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "healthy"}

    @app.post("/search")
    async def search(body: Body):
        return [{"id": passage.id, "contents": passage.contents} for passage in index.search([body.query], body.top_n)[0]]

    search.__globals__["Body"] = Body  # the annotation is a string; FastAPI looks it up in the module
    return app


def make_queries(index: Index, count: int, seed: int = 0) -> list[str]:
    """Distinct questions of 6 to 14 words, cut from the passages."""
    random = np.random.default_rng(seed)
    queries = []
    for row in random.integers(len(index), size=count):
        words = index.corpus.row(int(row))[1].split()
        start, length = random.integers(max(1, len(words) - 6)), random.integers(6, 15)
        queries.append(" ".join(words[start : start + length]))
    return queries


async def measure(port: int, queries: Sequence[str], *, clients: int, seconds: float, top_n: int = 5) -> Load:
    """Closed loop: each client sends its next query when it has its answer; `queries` are used in turn.

    Plain sockets instead of an HTTP library: on two cores the library would be measured as well.
    """
    turn, stop_at = iter(range(1 << 60)), time.perf_counter() + seconds
    latencies: list[float] = []
    health: list[float] = []

    async def exchange(reader, writer, request: bytes) -> bytes:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise RuntimeError(head.decode())
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(length)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < stop_at:
            body = json.dumps({"query": queries[next(turn) % len(queries)], "top_n": top_n}).encode()
            started = time.perf_counter()
            await exchange(reader, writer, b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                                           b"content-length: %d\r\n\r\n%b" % (len(body), body))
            latencies.append(time.perf_counter() - started)
        writer.close()

    async def probe() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < stop_at:
            started = time.perf_counter()
            await exchange(reader, writer, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            health.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(probe(), *(client() for _ in range(clients)))
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(np.array(latencies) * 1000, [50, 99])
    return Load(clients, len(latencies) / elapsed, float(p50), float(p99), max(health) * 1000)


def read_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second one thread reads from memory, best of five passes over a buffer that fits no cache."""
    buffer = np.ones(megabytes << 17, dtype=np.float64)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return buffer.nbytes / best


def scan_times(rows: int, dim: int, batches: Sequence[int], threads: int) -> dict[int, float]:
    """Seconds of one exact scan of a random float16 matrix, by batch size (best of three)."""
    from tir.retrieval.scan import CpuScanner

    random = np.random.default_rng(0)
    shard = random.standard_normal((1 << 14, dim), dtype=np.float32).astype(np.float16)
    scanner = CpuScanner([shard.copy() for _ in range(rows >> 14)], threads)
    times = {}
    for batch in batches:
        queries = random.standard_normal((batch, dim), dtype=np.float32)
        times[batch] = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            scanner.candidates(queries, 13)
            times[batch] = min(times[batch], time.perf_counter() - started)
    return times


def encode_times(index: Index, queries: Sequence[str], batches: Sequence[int]) -> dict[int, float]:
    """Seconds the encoder takes for a batch of queries, by batch size (best of three)."""
    times = {}
    for batch in batches:
        times[batch] = float("inf")
        for attempt in range(3):
            started = time.perf_counter()
            index.encoder.encode(queries[attempt * batch : (attempt + 1) * batch], kind="query")
            times[batch] = min(times[batch], time.perf_counter() - started)
    return times


def exact_share(index: Index, directory: Path, queries: Sequence[str], k: int = 5) -> float:
    """Share of queries whose k passages and order equal a float64 product over all stored vectors."""
    vectors = np.concatenate([np.load(path) for path in sorted(directory.glob("vectors-*.npy"))]).astype(np.float64)
    embedded = index.encoder.encode(queries, kind="query")
    truth = np.round(embedded.astype(np.float64) @ vectors.T, 6)
    expected = np.lexsort((np.broadcast_to(np.arange(len(vectors)), truth.shape), -truth), axis=-1)[:, :k]
    return float((index.search_vectors(embedded, k)[1] == expected).all(axis=1).mean())
