"""Exact inner-product search over float16 vectors: FAISS on a CPU block by block, or on GPUs as float16 shards.

Neither path ever holds the matrix as float32. Both return a few candidates more than asked; `rescore` then computes
their products in float64 from the stored vectors, so that rounding inside a matrix product, which varies with the
batch's size, decides neither the order nor the last place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tir.errors import ConfigError

RESIDENT_BYTES = 64 << 20  # of float32: an index no larger is converted once and kept
BLOCK_BYTES = 4 << 20  # of float32: small enough that a converted block is still in cache when it is multiplied
SPARE = 8  # candidates beyond k, against rounding at the last place


class Scanner(Protocol):
    """Candidates by approximate score: `(scores, rows)`, both (queries, k), best first; `budget` says what it holds."""

    budget: str

    def candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


class CpuScanner:
    """Blocked flat search with `faiss.knn`; of one query, with a product of matrix and vector.

    Args:
        shards: float16 (rows, dim) matrices, usually memory maps, in row order.
        threads: OpenMP threads of FAISS; the conversion uses torch's, which the encoder has set.
    """

    def __init__(self, shards: Sequence[np.ndarray], threads: int):
        import faiss
        import torch

        self._faiss, self._torch = faiss, torch
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # the maps are only read
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = 1  # its own loop for few queries is slower than one product
        dim, total = shards[0].shape[1], sum(len(shard) for shard in shards)
        self._blocks: list[tuple[int, np.ndarray]] = []
        if total * dim * 4 <= RESIDENT_BYTES:
            self._blocks.append((0, np.concatenate(shards, dtype=np.float32)))
            self.budget = f"kept as {total * dim * 4 / 1e6:,.1f} MB float32"
            return
        rows, first = max(1, BLOCK_BYTES // (4 * dim)), 0
        for shard in shards:
            self._blocks += [(first + start, shard[start : start + rows]) for start in range(0, len(shard), rows)]
            first += len(shard)
        self._buffer = np.empty((rows, dim), dtype=np.float32)
        self.budget = f"memory-mapped, {self._buffer.nbytes / 1e6:,.1f} MB of it at a time as float32"

    def candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scan every block for `queries` (n, dim) float32; returns scores (n, k) and rows (n, k)."""
        if len(queries) == 1:
            return self._candidates_of_one(queries[0], k)
        best = self._faiss.ResultHeap(len(queries), k, keep_max=True)
        for first, block in self._blocks:
            scores, rows = self._faiss.knn(queries, self._float32(block), min(k, len(block)),
                                           metric=self._faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, rows + first)
        best.finalize()
        return best.D, best.I

    def _candidates_of_one(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """A lone client's: there, choosing the best of every block takes `faiss.knn` longer than the products do."""
        torch, (last, block) = self._torch, self._blocks[-1]
        scores = torch.empty(last + len(block), dtype=torch.float32)
        for first, block in self._blocks:
            vectors = torch.from_numpy(self._float32(block))
            torch.mv(vectors, torch.from_numpy(query), out=scores[first : first + len(block)])
        best = torch.topk(scores, k)
        return best.values.numpy()[None], best.indices.numpy()[None]

    def _float32(self, block: np.ndarray) -> np.ndarray:
        if block.dtype == np.float32:
            return block
        buffer = self._buffer[: len(block)]
        # torch converts several times faster than numpy.
        self._torch.from_numpy(buffer).copy_(self._torch.from_numpy(np.asarray(block)))
        return buffer


class GpuScanner:
    """Flat search over float16 vectors sharded across all visible GPUs, with `faiss.knn_gpu` (faiss-gpu).

    Each GPU's share is allocated once, at its exact size, and filled shard by shard from the memory maps: the peak is
    the index itself (32.3 GB for 21,015,324 x 768), not its float32 double, nor a reallocation while growing. The
    tests, which have no GPU, do not run it.

    Raises:
        ConfigError: no GPU, or a faiss build without GPU support.
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        if not can_use_gpus():
            raise ConfigError("no GPU search here", where="device", why="needs CUDA and faiss-gpu", remedy="auto")
        import faiss
        import faiss.contrib.torch_utils  # noqa: F401  (lets faiss read torch tensors in place)
        import torch

        self._faiss, self._torch = faiss, torch
        total, dim = sum(len(shard) for shard in shards), shards[0].shape[1]
        gpus = min(torch.cuda.device_count(), total)
        self._first = [total * gpu // gpus for gpu in range(gpus + 1)]
        self._resources = [faiss.StandardGpuResources() for _ in range(gpus)]
        self._vectors = []
        self.budget = f"on {gpus} GPU(s), {total * dim * 2 / gpus / 1e9:.1f} GB each"
        for gpu in range(gpus):
            rows = self._first[gpu + 1] - self._first[gpu]
            free, _ = torch.cuda.mem_get_info(gpu)
            if rows * dim * 2 > free:
                raise ConfigError("index does not fit", where=f"GPU {gpu}",
                                  remedy="give the job more GPUs, or device: cpu",
                                  why=f"{rows * dim * 2 / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
            self._vectors.append(torch.empty((rows, dim), dtype=torch.float16, device=f"cuda:{gpu}"))
        row = 0
        for shard in shards:
            for gpu in range(gpus):
                start, stop = max(row, self._first[gpu]), min(row + len(shard), self._first[gpu + 1])
                if start < stop:
                    part = torch.from_numpy(np.ascontiguousarray(shard[start - row : stop - row]))
                    self._vectors[gpu][start - self._first[gpu] : stop - self._first[gpu]].copy_(part)
            row += len(shard)

    def candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `CpuScanner.candidates`; the GPUs work at the same time, each on its share."""
        from concurrent.futures import ThreadPoolExecutor

        def search(gpu: int) -> tuple[np.ndarray, np.ndarray]:
            vectors = self._vectors[gpu]
            batch = self._torch.from_numpy(queries).to(vectors.device, self._torch.float16)
            scores, rows = self._faiss.knn_gpu(self._resources[gpu], batch, vectors, min(k, len(vectors)),
                                               metric=self._faiss.METRIC_INNER_PRODUCT, device=gpu)
            return scores.float().cpu().numpy(), rows.cpu().numpy() + self._first[gpu]

        with ThreadPoolExecutor(len(self._vectors)) as pool:
            parts = list(pool.map(search, range(len(self._vectors))))
        return top(np.hstack([scores for scores, _ in parts]), np.hstack([rows for _, rows in parts]), k)


def can_use_gpus() -> bool:
    """Whether both CUDA and a faiss build with GPU support are here."""
    import torch

    if not torch.cuda.is_available():
        return False
    import faiss

    return hasattr(faiss, "StandardGpuResources")


def top(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line, best first; equal scores by row number."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def rescore(queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores of candidates, and their order.

    Args:
        queries: (n, dim) float32.
        vectors: (n, candidates, dim), the stored vectors of `rows`.
        rows: (n, candidates) row numbers.
        k: how many to keep.

    Returns:
        scores (n, k) float64, rounded to 6 decimals so that twins tie and rank by row number, and rows (n, k).
    """
    scores = np.einsum("nd,ncd->nc", queries.astype(np.float64), vectors.astype(np.float64))
    return top(np.round(scores, 6), rows, k)
