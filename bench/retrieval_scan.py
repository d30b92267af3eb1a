"""Bytes and time of one exact scan: int8 codes, float16 widened to float32 block by block, and FAISS's flat index.

    make bench-retrieval [ROWS=1000000] [VECTORS=passages.npy QUERIES=queries.npy]

All three answer the same queries in turn, with the same threads. The flat index holds float32 in memory, the others
read memory maps. VECTORS and QUERIES are arrays (rows, dim) of real embeddings; without them vectors are generated.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.retrieval_measure import BLOCK_ROWS, generated_block
from bench.table import Figure, interleaved, show
from tir.retrieval.codes import Codes, code, load, save
from tir.retrieval.scan import Vectors, rescore, search
from tir.retrieval.scanners import CodeScanner

K, DIM, ROUNDS = 5, 768, 3
WIDENED_ROWS = 1365  # 4 MB of float32 at 768 dimensions, so that a block is still in the cache when it is multiplied


def widened_scan(shards: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The scan before int8 codes: every block of float16 is converted to float32. Returns rows (n, K)."""
    import faiss
    import torch

    vectors = Vectors(shards)
    buffer = torch.empty((WIDENED_ROWS, vectors.dim))

    def scan(queries: np.ndarray) -> np.ndarray:
        best = faiss.ResultHeap(len(queries), K + 8, keep_max=True)
        for first, block in vectors.blocks(WIDENED_ROWS):
            rows = buffer[: len(block)].copy_(torch.from_numpy(block)).numpy()
            scores, found = faiss.knn(queries, rows, K + 8, metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, found + first)
        best.finalize()
        return rescore(queries.astype(np.float64), vectors, best.I, K)[1]

    return scan


def scans(shards: list[np.ndarray], codes: list[Codes], queries: np.ndarray) -> Iterator[Figure]:
    """Time of each scan for 1 and 16 queries, agreement of the results, bytes read, and how many rows are rescored."""
    import faiss

    flat = faiss.IndexFlatIP(shards[0].shape[1])
    for shard in shards:
        flat.add(np.asarray(shard, dtype=np.float32))
    scanner, vectors, before = CodeScanner(codes), Vectors(shards), widened_scan(shards)
    name = f"{len(vectors):,} x {vectors.dim}"
    for count in (1, 16):
        asked = queries[:count]
        forms = {
            "int8 codes": lambda asked=asked: search(scanner, vectors, asked, K),
            "float16 widened": lambda asked=asked: before(asked),
            "FAISS flat, float32": lambda asked=asked: flat.search(asked, K),
        }
        times = [values[0] for values in interleaved(list(forms.values()), ROUNDS)]
        for form, seconds in zip(forms, times, strict=True):
            yield Figure(f"{name}, {count} queries, {form}", "ms, best of 3", 1000 * seconds)
        yield Figure(f"{name}, {count} queries", "float16 widened / int8 codes", times[1] / times[0], ">= 1.6")
        yield Figure(f"{name}, {count} queries", "FAISS flat / int8 codes", times[2] / times[0])
    found = [search(scanner, vectors, queries[start : start + 16], K)[1] for start in range(0, len(queries), 16)]
    expected = [before(queries[start : start + 16]) for start in range(0, len(queries), 16)]
    same = (np.concatenate(found) == np.concatenate(expected)).all(axis=1)
    yield Figure(f"{name}, {len(queries)} queries", "% with the same rows in order", 100 * same.mean(), "100")
    size = sum(shard.codes.numel() + 4 * shard.scales.numel() for shard in codes)
    per_query = (K + scanner.spare) * vectors.dim * 2
    yield Figure(
        name, "bytes read / float16", (size + per_query) / (len(vectors) * vectors.dim * 2), "<= 0.55, for a lone query"
    )
    yield from undecided(name, scanner, vectors, queries)


def undecided(name: str, scanner: CodeScanner, vectors: Vectors, queries: np.ndarray) -> Iterator[Figure]:
    """How many rows per query the bounds cannot exclude from the K best."""
    limit, counts = min(2000, len(vectors)), []
    for start in range(0, len(queries), 16):
        asked = queries[start : start + 16].astype(np.float64)
        norms = np.linalg.norm(asked, axis=1, keepdims=True)
        bounds, rows = scanner.candidates(asked / norms, limit)
        kth = rescore(asked, vectors, rows[:, : K + scanner.spare], K)[0][:, -1:]
        counts += (bounds * norms >= kth).sum(axis=1).tolist()
    yield Figure(f"{name}, {len(queries)} queries", "undecided rows, median", float(np.median(counts)))
    yield Figure(
        f"{name}, {len(queries)} queries", "undecided rows, most", float(max(counts)), f"< {K + scanner.spare}"
    )


def write(vectors: Iterator[np.ndarray], directory: Path) -> tuple[list[np.ndarray], list[Codes]]:
    """Write vectors and codes as shards of an index; returns both, memory-mapped."""
    shards, codes = [], []
    for number, block in enumerate(vectors):
        path = directory / f"vectors-{number}.npy"
        np.save(path, block.astype(np.float16))
        shards.append(np.load(path, mmap_mode="c"))
        save(code(shards[-1]), directory / f"codes-{number}")
        codes.append(load(directory / f"codes-{number}", shards[-1].shape, ""))
    return shards, codes


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure exact scans of vectors.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of generated vectors")
    parser.add_argument("--vectors", help=".npy file of real vectors")
    parser.add_argument("--queries", help=".npy file of real queries")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    import faiss
    import torch

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    faiss.cvar.distance_compute_blas_threshold = 1  # BLAS also for few queries, which is faster
    with tempfile.TemporaryDirectory(prefix="bench-scan-") as directory:
        if options.vectors:
            real = np.load(options.vectors).astype(np.float32)
            blocks = (real[start : start + BLOCK_ROWS] for start in range(0, len(real), BLOCK_ROWS))
            queries = np.load(options.queries).astype(np.float32)
        else:
            starts = range(0, options.rows, BLOCK_ROWS)
            blocks = (
                generated_block(number, min(BLOCK_ROWS, options.rows - start), DIM)
                for number, start in enumerate(starts)
            )
            queries = generated_block(1 << 30, 64, DIM)
        shards, codes = write(blocks, Path(directory))
        show([("Exact scan", scans(shards, codes, queries))])


if __name__ == "__main__":
    main()
