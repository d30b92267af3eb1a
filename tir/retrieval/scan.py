"""Exact inner-product search over float16 vectors: FAISS on a CPU block by block, or torch on GPUs, each with a share.

Neither path ever holds the matrix as float32. Both return a few candidates more than asked; `rescore` then computes
their products in float64 from the stored vectors, so that rounding inside a matrix product, which varies with the
batch's size, decides neither the order nor the last place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tir.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT_BYTES = 64 << 20  # of float32: an index no larger is converted once and kept
BLOCK_BYTES = 4 << 20  # of float32: small enough that a converted block is still in cache when it is multiplied
DEVICE_BLOCK_ROWS = 1 << 16  # 201 MB of float32 at 768 dimensions
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


def visible_gpus() -> list[str]:
    """torch's names of the GPUs this process may use. Raises `ConfigError` if there is none."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("no GPU here", where="device: cuda", why="torch sees none", remedy="device: auto")
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


class DeviceScanner:
    """Flat search over float16 vectors sharded across all visible GPUs, in plain torch.

    Each device's share is allocated once, at its exact size, and filled shard by shard from the memory maps: the peak is
    the index itself (32.3 GB for 21,015,324 x 768) and one block of it as float32. Products are float32: rounded to
    float16, the scores of neighbours would tie.

    Args:
        shards: as for `CpuScanner`.
        devices: torch's names of them, one per share; any kind, so that the tests need no GPU.

    Raises:
        ConfigError: no GPU, or too small ones.
    """

    def __init__(self, shards: Sequence[np.ndarray], devices: Sequence[str] = ()):
        import torch

        self._torch = torch
        total, dim = sum(len(shard) for shard in shards), shards[0].shape[1]
        devices = (devices or visible_gpus())[:total]
        self._first = [total * number // len(devices) for number in range(len(devices) + 1)]
        self._vectors = []
        self.budget = f"on {len(devices)} GPU(s), {total * dim * 2 / len(devices) / 1e9:.1f} GB each"
        for device, first, end in zip(devices, self._first, self._first[1:], strict=False):
            needed = (end - first) * dim * 2 + DEVICE_BLOCK_ROWS * dim * 4
            free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else needed
            if needed > free:
                raise ConfigError("index does not fit", where=device, remedy="give the job more GPUs, or device: cpu",
                                  why=f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
            self._vectors.append(torch.empty((end - first, dim), dtype=torch.float16, device=device))
        row = 0
        for shard in shards:
            for vectors, first in zip(self._vectors, self._first, strict=False):
                start, stop = max(row, first), min(row + len(shard), first + len(vectors))
                if start < stop:
                    part = torch.from_numpy(np.ascontiguousarray(shard[start - row : stop - row]))
                    vectors[start - first : stop - first].copy_(part)
            row += len(shard)

    def candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `CpuScanner.candidates`; the devices work at the same time, each on its share."""
        # A GPU's work is queued and not waited for; only the way back waits.
        parts = [self._best(vectors, self._torch.from_numpy(queries).to(vectors.device), k) for vectors in self._vectors]
        return top(np.hstack([scores.cpu().numpy() for scores, _ in parts]),
                   np.hstack([rows.cpu().numpy() + first for (_, rows), first in zip(parts, self._first, strict=False)]), k)

    def _best(self, vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        torch = self._torch
        scores, rows = queries.new_empty((len(queries), 0)), queries.new_empty((len(queries), 0), dtype=torch.int64)
        for start in range(0, len(vectors), DEVICE_BLOCK_ROWS):
            products = queries @ vectors[start : start + DEVICE_BLOCK_ROWS].float().T
            found = torch.topk(products, min(k, products.shape[1]))
            scores, rows = torch.cat([scores, found.values], 1), torch.cat([rows, found.indices + start], 1)
            kept = torch.topk(scores, min(k, scores.shape[1]))
            scores, rows = kept.values, rows.gather(1, kept.indices)
        return scores, rows


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
