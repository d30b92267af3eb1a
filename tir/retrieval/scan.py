"""Exact inner-product search over float16 vectors.

A scan reads all vectors in a cheap form. It computes for each row an upper bound of its score, namely an approximate
score plus the largest error it can have, and returns the rows with the highest bounds. `search` computes the scores of
these rows in float64 from the stored vectors. If the k-th best score is above the bounds of all other rows, the result
is proven. If not, it asks for more rows, and at last scores all rows in float64. So results do not depend on the form,
the device, the batch or the number of threads.

Read `search` first; `tir.retrieval.scanners` has the forms of a scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from tir.common.errors import DataError

DECIMALS = 6  # scores are rounded, so that identical passages rank by row number


class Scanner(Protocol):
    """Finds the rows that may have the best scores.

    Attributes:
        spare: rows to ask for beyond k, so that the first try nearly always proves the result.
        budget: memory that the scanner uses, for the log.
    """

    spare: int
    budget: str

    def candidates(self, queries: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
        """`(bounds, rows)`, both (n, m), best first: no other row has a score above the last bound.

        `queries` are (n, dim) float64 of norm 1 or 0; m is at most the number of rows.
        """
        ...


class Vectors:
    """The float16 vectors of an index by row number.

    Args:
        shards: (rows, dim) matrices, usually memory maps, in row order.
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards, self.dim = shards, shards[0].shape[1]
        self.starts = np.cumsum([0, *(len(shard) for shard in shards)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Vectors (..., dim) of row numbers (...)."""
        vectors = np.empty((*rows.shape, self.dim), dtype=np.float16)
        shard_of = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shard_of):
            in_shard = shard_of == shard
            vectors[in_shard] = self.shards[shard][rows[in_shard] - self.starts[shard]]
        return vectors

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, np.ndarray]]:
        """All vectors in order, as (first row number, block of at most `rows` rows)."""
        for first, shard in zip(self.starts, self.shards, strict=False):
            for start in range(0, len(shard), rows):
                yield int(first) + start, shard[start : start + rows]


def search(scanner: Scanner, vectors: Vectors, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query, proven.

    Args:
        scanner: of the same rows as `vectors`.
        vectors: the stored vectors.
        queries: (n, dim) float32 of any norm.
        k: number of results; at most the number of rows is returned.

    Returns:
        Scores (n, k) float64, rounded to `DECIMALS`, and rows (n, k), best first; equal scores rank by row number.

    Raises:
        DataError: a query is not finite.
    """
    queries, k = queries.astype(np.float64), min(k, len(vectors))
    norms = np.linalg.norm(queries, axis=1)
    if not np.isfinite(norms).all():
        raise DataError(
            "query embedding is not finite",
            where=f"query {int(np.flatnonzero(~np.isfinite(norms))[0])}",
            remedy="check the encoder's weights and dtype",
        )
    directions = queries / np.where(norms, norms, 1)[:, None]
    scores, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    unproven, first = np.arange(len(queries)), min(k + scanner.spare, len(vectors))
    for m in (first, 16 * first):
        if not len(unproven) or m > max(first, len(vectors) // 4):
            break
        bounds, found = scanner.candidates(directions[unproven], m)
        scores[unproven], rows[unproven] = rescore(queries[unproven], vectors, found, k)
        limit = bounds[:, -1] * norms[unproven]  # no other row scores higher
        proven = scores[unproven, -1] > limit + 10.0**-DECIMALS + 1e-12 * np.abs(limit)  # also after rounding
        unproven = unproven[~proven & (m < len(vectors))]
    if len(unproven):
        scores[unproven], rows[unproven] = _search_all(vectors, queries[unproven], k)
    return scores, rows


def rescore(queries: np.ndarray, vectors: Vectors, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the candidates `rows` (n, m) by their true scores; queries are float64. Returns scores and rows."""
    scores = np.empty(rows.shape)
    step = max(1, (1 << 23) // (rows.shape[1] * vectors.dim))  # at most 64 MB of float64, or one query
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scores[part] = np.einsum("nd,nmd->nm", queries[part], vectors[rows[part]].astype(np.float64))
    return top(np.round(scores, DECIMALS), rows, k)


def _search_all(vectors: Vectors, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows by the true scores of all rows; as `search`, with float64 queries."""
    best_scores, best_rows = np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)
    for first, block in vectors.blocks():
        scores = np.round(queries @ block.astype(np.float64).T, DECIMALS)
        rows = np.broadcast_to(np.arange(first, first + len(block)), scores.shape)
        best_scores, best_rows = top(np.hstack([best_scores, scores]), np.hstack([best_rows, rows]), k)
    return best_scores, best_rows


def top(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each query, best first; equal scores are ordered by row number."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
