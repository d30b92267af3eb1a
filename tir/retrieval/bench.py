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
from fastapi import FastAPI
from pydantic import BaseModel

from tir.records import file_digest, read_json, write_json
from tir.retrieval.corpus import scan
from tir.retrieval.index import MANIFEST, Index


@dataclass(frozen=True)
class Load:
    """What one closed loop of clients measured: queries per second, latencies in ms, /health's worst latency in ms."""

    clients: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    health_ms: float


class UpstreamRequest(BaseModel):
    """Body of upstream's /search."""

    query: str
    top_n: int = 10


def upstream_app(index: Index) -> FastAPI:
    """FastAPI application that blocks its event loop for every search, as upstream's does."""
    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "healthy"}

    @app.post("/search")
    async def search(body: UpstreamRequest):
        passages = index.search([body.query], body.top_n)[0]
        return [{"id": passage.id, "contents": passage.contents} for passage in passages]

    return app


def tile_index(source: Path, target: Path, rows: int, seed: int = 0) -> None:
    """Write an index of about `rows` rows: `source`'s corpus over and over, its vectors with a little noise.

    It makes the scan what it is at paper scale, the larger part of a request, with a corpus of a few megabytes.
    """
    manifest = read_json(source / MANIFEST)
    copies = max(1, rows // manifest["count"])
    count = copies * manifest["count"]
    if (target / MANIFEST).exists() and read_json(target / MANIFEST)["count"] == count:
        return
    target.mkdir(parents=True, exist_ok=True)
    text, random = (source / "corpus.jsonl").read_bytes(), np.random.default_rng(seed)
    with open(target / "corpus.jsonl", "wb") as file:
        for _ in range(copies):
            file.write(text)
    found = scan(target / "corpus.jsonl")
    np.save(target / "offsets.npy", found.offsets)
    vectors = np.concatenate([np.load(source / shard["file"]) for shard in manifest["shards"]]).astype(np.float32)
    shards = []
    for copy in range(copies):
        noisy = vectors + random.standard_normal(vectors.shape, dtype=np.float32) * np.float32(0.02)
        path = target / f"vectors-{copy:05d}.npy"
        np.save(path, (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float16))
        shards.append({"file": path.name, "rows": len(noisy), "sha256": file_digest(path)})
    write_json(target / MANIFEST, {**manifest, "count": count, "corpus_sha256": found.sha256, "shards": shards})


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


def part_times(index: Index, queries: Sequence[str], batch: int) -> tuple[float, float]:
    """Seconds to encode a batch of queries, and to search with their embeddings (best of three each)."""
    encode = search = float("inf")
    for attempt in range(3):
        started = time.perf_counter()
        embedded = index.encoder.encode(queries[attempt * batch : (attempt + 1) * batch], kind="query")
        encoded = time.perf_counter()
        index.search_vectors(embedded, 5)
        encode, search = min(encode, encoded - started), min(search, time.perf_counter() - encoded)
    return encode, search


def exact_share(index: Index, directory: Path, queries: Sequence[str], k: int = 5) -> float:
    """Share of queries whose k passages and order equal a float64 product over all stored vectors."""
    vectors = np.concatenate([np.load(path) for path in sorted(directory.glob("vectors-*.npy"))]).astype(np.float64)
    embedded = index.encoder.encode(queries, kind="query")
    found = index.search_vectors(embedded, k)[1]
    same = 0
    for query, rows in zip(embedded.astype(np.float64), found, strict=True):
        truth = np.round(vectors @ query, 6)
        same += np.array_equal(np.lexsort((np.arange(len(truth)), -truth))[:k], rows)
    return same / len(queries)
