"""A server of upstream's design, generated vectors, and measurements of throughput, latency and recall.

Upstream's server encodes with `transformers` and searches a float32 `IndexFlatIP`, both inside an `async def` handler:
it handles one query at a time and answers nothing else meanwhile. `upstream_app` has the same design, with the same
weights and number of threads as the measured server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from tir.common.records import file_digest, read_json, write_json
from tir.retrieval.codes import code, save
from tir.retrieval.corpus import scan
from tir.retrieval.dense import DenseIndex
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest, resolve_model
from tir.retrieval.files import FORMAT, MANIFEST
from tir.retrieval.index import Index
from tir.retrieval.scan import top

BLOCK_ROWS = 1 << 16
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Load:
    """Result of one load test.

    Attributes:
        clients: number of clients, each of which sends its next query when it has the answer to the last.
        queries_per_s: throughput.
        p50_ms: median latency.
        p99_ms: 99th percentile of the latency.
        health_ms: longest latency of /health during the test.
    """

    clients: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    health_ms: float


class UpstreamRequest(BaseModel):
    """Body of upstream's /search."""

    query: str
    top_n: int = 10


def upstream_app(index: DenseIndex, threads: int) -> FastAPI:
    """FastAPI application that keeps float32 vectors and blocks its event loop during every search, as upstream's."""
    import faiss

    faiss.omp_set_num_threads(threads)
    flat, encode = faiss.IndexFlatIP(index.dim), upstream_encoder(index.encoder)
    for shard in index.shards:
        flat.add(np.asarray(shard, dtype=np.float32))
    encode("warm up")
    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "healthy"}

    @app.post("/search")
    async def search(body: UpstreamRequest):
        rows = flat.search(encode(body.query), body.top_n)[1][0]
        return [dict(zip(("id", "contents"), index.corpus.row(int(row)), strict=True)) for row in rows]

    return app


def upstream_encoder(encoder: Encoder) -> Callable[[str], np.ndarray]:
    """The encoder's model in `transformers`, as in FlashRAG: maps a query to (1, dim) float32 of unit norm."""
    import torch
    from transformers import AutoModel, PreTrainedTokenizerFast, logging

    logging.set_verbosity_error()  # no warning about BERT's pooler, which is unused and may be missing
    logging.disable_progress_bar()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(encoder.directory / "tokenizer.json"), pad_token="[PAD]")
    model, config = AutoModel.from_pretrained(encoder.directory).eval(), encoder.config

    @torch.inference_mode()
    def encode(query: str) -> np.ndarray:
        inputs = tokenizer(
            [config.query_prefix + query],
            max_length=config.max_query_tokens,
            padding=True,
            truncation=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        pooled = states.masked_fill(mask == 0, 0).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    return encode


def generated_block(number: int, rows: int, dim: int) -> np.ndarray:
    """Block `number` of the generated vectors: (rows, dim) float32 of unit norm, deterministic."""
    block = np.random.default_rng([number, dim]).standard_normal((rows, dim), dtype=np.float32)
    return block / np.linalg.norm(block, axis=1, keepdims=True)


def generate_index(target: Path, encoder: EncoderConfig, rows: int) -> None:
    """Write an index of `rows` generated vectors and a corpus of as many short passages, unless it exists."""
    if (target / MANIFEST).exists() and read_json(target / MANIFEST)["count"] == rows:
        return
    target.mkdir(parents=True, exist_ok=True)
    loaded, shards = Encoder(encoder), []
    with open(target / "corpus.jsonl", "w", encoding="utf-8") as file:
        for row in range(rows):
            file.write(
                f'{{"id": "{row}", "contents": "\\"Title {row}\\"\\nthe text of passage {row} of many others"}}\n'
            )
    corpus = scan(target / "corpus.jsonl")
    np.save(target / "offsets.npy", corpus.offsets)
    for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
        path, count = target / f"vectors-{number:05d}.npy", min(BLOCK_ROWS, rows - start)
        np.save(path, generated_block(number, count, loaded.dim).astype(np.float16))
        codes = target / f"codes-{number:05d}.safetensors"
        save(code(np.load(path, mmap_mode="r")), codes)
        facts = {"file": codes.name, "sha256": file_digest(codes)}
        shards.append({"file": path.name, "rows": count, "sha256": file_digest(path), "codes": facts})
    write_json(
        target / MANIFEST,
        {
            "format": FORMAT,
            "backend": "dense",
            "settings": encoder.identity(),
            "corpus_sha256": corpus.sha256,
            "model_sha256": model_digest(loaded.directory),
            "count": rows,
            "dim": loaded.dim,
            "dtype": "float16",
            "shard_rows": BLOCK_ROWS,
            "shards": shards,
        },
    )


def random_encoder(target: Path, like: str) -> Path:
    """Write a BERT of e5-base-v2's size (12 layers of width 768) with random weights; it is as slow as the real one.

    Args:
        target: model directory; an existing model is kept.
        like: encoder whose tokenizer is copied (BERT's, with 30,522 tokens).
    """
    import torch
    from safetensors.torch import save_file

    from tir.retrieval.bert import weight_shapes

    if (target / "model.safetensors").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_bytes((resolve_model(like) / "tokenizer.json").read_bytes())
    config = {
        "model_type": "bert",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "vocab_size": 30_522,
        "pad_token_id": 0,
    }
    write_json(target / "config.json", config)
    shapes, generator = weight_shapes(config), torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    weights |= {
        f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items() if not name.endswith("embeddings")
    }
    save_file(weights, target / "model.safetensors")
    return target


def make_queries(index: Index, count: int, seed: int = 0) -> list[str]:
    """Queries of 6 to 14 words, cut from random passages."""
    random = np.random.default_rng(seed)
    queries = []
    for row in random.integers(len(index), size=count):
        words = index.corpus.row(int(row))[1].split()
        start, length = random.integers(max(1, len(words) - 6)), random.integers(6, 15)
        queries.append(" ".join(words[start : start + length]))
    return queries


async def measure(port: int, queries: Sequence[str], *, clients: int, seconds: float, top_n: int = 5) -> Load:
    """Load test with a fixed number of clients, which take the queries in turn.

    It lasts for `seconds`, and until each client has received `MIN_ROUNDS` answers; otherwise a slow server with 64
    clients would be measured by its first batch only. It uses plain sockets, because an HTTP library would compete with
    the server for the cores.
    """
    turn, stop_at = itertools.count(), time.perf_counter() + seconds
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
        rounds = itertools.count()
        while next(rounds) < MIN_ROUNDS or time.perf_counter() < stop_at:
            body = json.dumps({"query": queries[next(turn) % len(queries)], "top_n": top_n}).encode()
            started = time.perf_counter()
            await exchange(
                reader,
                writer,
                b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body),
            )
            latencies.append(time.perf_counter() - started)
        writer.close()

    async def probe_health() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < stop_at:
            started = time.perf_counter()
            await exchange(reader, writer, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            health.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(probe_health(), *(client() for _ in range(clients)))
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(np.array(latencies) * 1000, [50, 99])
    return Load(clients, len(latencies) / elapsed, float(p50), float(p99), max(health) * 1000)


def read_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second that one thread reads from memory: best of five passes over a buffer larger than any cache."""
    buffer = np.ones(megabytes << 17, dtype=np.float64)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return buffer.nbytes / best


def part_times(index: Index, queries: Sequence[str], batch: int) -> tuple[float, float]:
    """Seconds to encode a batch of queries, and seconds to search with its embeddings; best of three each."""
    encode = search = float("inf")
    for attempt in range(3):
        started = time.perf_counter()
        embedded = index.encoder.encode(queries[attempt * batch : (attempt + 1) * batch], kind="query")
        encoded = time.perf_counter()
        index.search_vectors(embedded, 5)
        encode, search = min(encode, encoded - started), min(search, time.perf_counter() - encoded)
    return encode, search


def recall(index: DenseIndex, queries: np.ndarray, blocks: Iterable[np.ndarray], k: int = 5) -> tuple[float, float]:
    """Recall@k of the index compared with an exact float32 search.

    Args:
        index: the index to test.
        queries: (n, dim) float32 embeddings.
        blocks: (rows, dim) float32 blocks of the vectors for the exact search, in row order.
        k: number of results.

    Returns:
        The share of the exact k best rows that the index finds, and the share of queries for which it finds all k.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    exact_rows, first = np.zeros((len(queries), k), dtype=np.int64), 0
    for block in blocks:
        block_scores = queries @ block.T
        best = np.argpartition(-block_scores, min(k, len(block)) - 1, axis=1)[:, :k]
        scores, exact_rows = top(
            np.hstack([scores, np.take_along_axis(block_scores, best, 1)]), np.hstack([exact_rows, best + first]), k
        )
        first += len(block)
    index_rows = np.concatenate(
        [index.search_vectors(queries[start : start + 256], k)[1] for start in range(0, len(queries), 256)]
    )
    hits = (index_rows[:, :, None] == exact_rows[:, None, :]).any(axis=2).mean(axis=1)
    return float(hits.mean()), float((hits == 1.0).mean())
