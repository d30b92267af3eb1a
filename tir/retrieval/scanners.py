"""The forms in which a scan reads the vectors of an index (see `tir.retrieval.scan`), and their choice for GPUs.

CodeScanner     int8 codes: half of the bytes; on a CPU, and on GPUs that are too small for float16
FlatScanner     FAISS with float32 in memory, for a small index on a CPU, or with float16 on GPUs
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tir.common.errors import ConfigError
from tir.retrieval.codes import ULP, CodedQueries, Codes
from tir.retrieval.scan import Scanner, top

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT_BYTES = 64 << 20  # on a CPU, an index of at most this many float32 bytes is kept in memory
BLOCK_ROWS = 1 << 13  # rows of codes that one CPU thread multiplies at a time
BLOCK_SCORES = 1 << 23  # scores that a block of codes has at most
GPU_BLOCK_ROWS = 1 << 16  # rows that torch multiplies at a time on a GPU
GPU_WORK_BYTES = 1 << 29  # memory of a scan on a GPU
FAISS_GPU_ROWS = 2048  # the most rows that FAISS selects on a GPU


class CodeScanner:
    """Bounds from int8 codes (`tir.retrieval.codes`), in plain torch.

    Args:
        shards: the codes, in row order; on a CPU usually memory-mapped.
        device: torch device that holds them. The CPU threads are torch's.
    """

    spare = 128

    def __init__(self, shards: Sequence[Codes], device: str = "cpu"):
        self._shards, self._device = [shard.to(device) for shard in shards], device
        self._rows = sum(len(shard.scales) for shard in shards)
        size = sum(shard.codes.numel() + 4 * shard.scales.numel() for shard in shards)
        self.budget = f"+ {size / 1e6:,.1f} MB of int8 codes, {'memory-mapped' if device == 'cpu' else 'on ' + device}"

    def __len__(self) -> int:
        return self._rows

    def candidates(self, queries: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scanner.candidates`."""
        import torch

        coded, best, first = CodedQueries(queries), _Best(len(queries), m), 0
        digits = torch.from_numpy(coded.digits).to(self._device)
        block = BLOCK_ROWS * torch.get_num_threads() if self._device == "cpu" else BLOCK_SCORES
        block = max(32, min(block, BLOCK_SCORES // len(queries)))
        for shard in self._shards:
            gap, offset = coded.bounds(shard)
            gap = torch.from_numpy(gap.astype(np.float32)).to(self._device)
            start = 0
            while start < len(shard.scales):
                rows = slice(start, start + min(block, max(1024, first + start)))  # small until there is a threshold
                values = coded.multiply(shard.codes[rows], digits).add_(gap).mul_(shard.scales[rows, None])
                limit = np.nextafter(((best.threshold - offset) / coded.unit).astype(np.float32), np.float32(-np.inf))
                row, query = (values > torch.from_numpy(limit).to(self._device)).nonzero(as_tuple=True)
                found = values[row, query].cpu().numpy().astype(np.float64)
                query = query.cpu().numpy()
                best.add(query, offset[query] + coded.unit[query] * found, row.cpu().numpy() + first + start)
                start = rows.stop
            first += len(shard.scales)
        return best.result()


class FlatScanner:
    """Approximate scores of whole vectors, through FAISS: float32 in memory on a CPU, float16 on a GPU.

    On a GPU, FAISS searches the memory of a torch tensor. Without a GPU build of FAISS, or for more rows than it can
    select, torch does the same. Products of float16 are summed in float32.

    Args:
        shards: float16 (rows, dim) matrices, in row order. They are copied one by one.
        device: torch device. A GPU's form on "cpu" is for tests: `dtype="float16"`.
        threads: OpenMP threads of FAISS on a CPU.
    """

    spare = 8

    def __init__(self, shards: Sequence[np.ndarray], device: str = "cpu", *, dtype: str = "float32", threads: int = 1):
        import faiss
        import torch

        self._faiss, self._device, self._dtype, dim = faiss, device, dtype, shards[0].shape[1]
        self._vectors = torch.empty((sum(map(len, shards)), dim), dtype=getattr(torch, dtype), device=device)
        first, squares = 0, 0.0
        for shard in shards:
            part = self._vectors[first : first + len(shard)]
            part.copy_(torch.from_numpy(np.array(shard)))
            for rows in part.split(GPU_BLOCK_ROWS):
                squares = max(squares, rows.double().square().sum(1).max().item())
            first += len(shard)
        # |computed - exact| <= norm * (rest of the rounded query + rounding * its norm), whatever the order of the sum.
        # Tensor cores cut off digits where float32 arithmetic rounds: two more bits are allowed for.
        rounding = dim * (ULP if dtype == "float32" else 4 * ULP)
        self._norm, self._rounding = squares**0.5 * (1 + 1e-9), rounding / (1 - rounding)
        self._resources = None
        if device == "cpu":
            faiss.omp_set_num_threads(threads)
        elif hasattr(faiss, "StandardGpuResources"):
            import faiss.contrib.torch_utils

            self._resources = faiss.StandardGpuResources()
            self._resources.setTempMemory(GPU_WORK_BYTES)
        self.budget = f"in memory as {self._vectors.nbytes / 1e6:,.1f} MB {dtype} on {device}"

    def __len__(self) -> int:
        return len(self._vectors)

    def candidates(self, queries: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scanner.candidates`."""
        import torch

        rounded = queries.astype(self._dtype)
        known = rounded.astype(np.float64)
        error = np.linalg.norm(queries - known, axis=1) + self._rounding * np.linalg.norm(known, axis=1)
        metric = self._faiss.METRIC_INNER_PRODUCT
        if self._dtype == "float32":
            scores, rows = self._faiss.knn(rounded, self._vectors.numpy(), m, metric=metric)
        elif self._resources and m <= FAISS_GPU_ROWS:
            # FAISS computes on the current GPU and its stream; in a thread of `JoinedScanner` that is the first GPU.
            with torch.cuda.device(self._device):
                on_gpu = torch.from_numpy(rounded).to(self._device)
                found = self._faiss.knn_gpu(self._resources, on_gpu, self._vectors, m, metric=metric)
                scores, rows = (tensor.cpu().numpy() for tensor in found)
        else:
            found = self._top(torch.from_numpy(rounded).to(self._device), m)
            scores, rows = (tensor.cpu().numpy() for tensor in found)
        return scores + (self._norm * error)[:, None], rows

    def _top(self, queries: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """What `knn_gpu` computes, in torch."""
        import torch

        scores = torch.empty((len(queries), 0), device=self._device)
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=self._device)
        for number, block in enumerate(self._vectors.split(GPU_BLOCK_ROWS)):
            if block.is_cuda:
                products = torch.mm(queries, block.T, out_dtype=torch.float32)
            else:
                products = queries.float() @ block.float().T
            best = torch.topk(products, min(m, len(block)))
            scores = torch.cat([scores, best.values], 1)
            rows = torch.cat([rows, best.indices + number * GPU_BLOCK_ROWS], 1)
            best = torch.topk(scores, min(m, scores.shape[1]))
            scores, rows = best.values, rows.gather(1, best.indices)
        return scores, rows


class JoinedScanner:
    """Scanners of consecutive parts of an index, each on its own device; all work at the same time."""

    def __init__(self, scanners: Sequence[Scanner]):
        self._scanners, self.spare = scanners, scanners[0].spare
        self._starts = np.cumsum([0, *map(len, scanners)])
        self._pool = ThreadPoolExecutor(len(scanners))
        self.budget = ", ".join(scanner.budget for scanner in scanners)

    def candidates(self, queries: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scanner.candidates`."""
        parts = list(self._pool.map(lambda scanner: scanner.candidates(queries, min(m, len(scanner))), self._scanners))
        rows = [rows + start for (_, rows), start in zip(parts, self._starts, strict=False)]
        return top(np.hstack([bounds for bounds, _ in parts]), np.hstack(rows), m)


class _Best:
    """The m candidates of each query with the highest bounds, while blocks of candidates arrive.

    Attributes:
        threshold: (n,) bounds that a new candidate must exceed.
    """

    def __init__(self, queries: int, m: int):
        self._m, self._pending = m, 0
        self.threshold = np.full(queries, -np.inf)
        self._found = [(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64))]

    def add(self, query: np.ndarray, bounds: np.ndarray, rows: np.ndarray) -> None:
        """Add candidates: for each, the number of its query, its bound, its row."""
        self._found.append((query, bounds, rows))
        self._pending += len(rows)
        if self._pending > len(self.threshold) * self._m:
            self._select()

    def _select(self) -> None:
        query, bounds, rows = map(np.concatenate, zip(*self._found, strict=True))
        order = np.lexsort((-bounds, query))
        query, bounds, rows = query[order], bounds[order], rows[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        self.threshold[query[rank == self._m - 1]] = bounds[rank == self._m - 1]
        kept = rank < self._m
        self._found, self._pending = [(query[kept], bounds[kept], rows[kept])], 0

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds and rows (n, m), best first. At least m candidates of each query must have been added."""
        self._select()
        _, bounds, rows = self._found[0]
        return bounds.reshape(-1, self._m), rows.reshape(-1, self._m)


def visible_gpus() -> list[str]:
    """torch's names of the GPUs that this process may use; raises `ConfigError` if there is none."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("no GPU found", where="device: cuda", why="torch finds none", remedy="device: auto")
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def gpu_scanner(vectors: Sequence[np.ndarray], codes: Sequence[Codes], devices: Sequence[str]) -> Scanner:
    """A scanner of all shards on GPUs, each of which holds consecutive shards.

    The form is float16 where it fits into the free memory of each GPU, and int8 codes where it does not.

    Raises:
        ConfigError: the GPUs are too small for both.
    """
    groups = np.array_split(np.arange(len(vectors)), min(len(devices), len(vectors)))
    needed = {}
    for form, size in (("float16", 2 * vectors[0].shape[1]), ("int8", vectors[0].shape[1] + 4)):
        needed[form] = [sum(len(vectors[shard]) for shard in group) * size + GPU_WORK_BYTES for group in groups]
        if all(need <= _free_bytes(device) for need, device in zip(needed[form], devices, strict=False)):
            break
    else:
        raise ConfigError(
            "index does not fit",
            where=", ".join(devices),
            why="; ".join(f"{max(need) / 1e9:.1f} GB needed per GPU as {form}" for form, need in needed.items())
            + f", {min(map(_free_bytes, devices)) / 1e9:.1f} GB free",
            remedy="device: cpu   # or give the job more GPUs",
        )
    scanners = [
        FlatScanner([vectors[shard] for shard in group], device, dtype="float16")
        if form == "float16"
        else CodeScanner([codes[shard] for shard in group], device)
        for device, group in zip(devices, groups, strict=False)
    ]
    return JoinedScanner(scanners) if len(scanners) > 1 else scanners[0]


def _free_bytes(device: str) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]
