"""Dense index: a sentence encoder and its float16 vectors, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tir.errors import CheckpointError, DataError
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest
from tir.retrieval.pieces import REMEDY, VERIFY_BELOW_BYTES, index_digest, open_array, open_corpus, open_piece
from tir.retrieval.passage import Passage
from tir.retrieval.scan import SPARE, CpuScanner, DeviceScanner, rescore, visible_gpus


class DenseIndex:
    """Exact inner-product search with the encoder that made the vectors.

    Args and errors: see `tir.retrieval.index.load_index`.

    Attributes:
        shards: the float16 matrices, memory-mapped, in row order.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], *, model: str | None, device: str, threads: int,
                 verify: bool | None):
        self.manifest, self.digest = manifest, index_digest(manifest)
        self._count, self.dim = manifest["count"], manifest["dim"]
        if verify is None:
            verify = self._count * self.dim * 2 < VERIFY_BELOW_BYTES
        self.shards = [_open_shard(directory, shard, self.dim, verify) for shard in manifest["shards"]]
        self._starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        if self._starts[-1] != self._count:
            raise DataError("shards do not add up", where=str(directory), remedy=REMEDY,
                            why=f"{self._starts[-1]} rows, not {self._count}")
        self.corpus = open_corpus(directory, manifest, verify)
        threads = threads or default_threads()
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda":
            visible_gpus()  # before an encoder is loaded in vain
        config = EncoderConfig.from_mapping(manifest["settings"], str(directory)).on(device, threads)
        self.encoder = Encoder(replace(config, model=model) if model else config)
        found = model_digest(self.encoder.directory)
        if found != manifest["model_sha256"]:
            raise CheckpointError("encoder is not the one the index was built with", where=str(self.encoder.directory),
                                  why=f"sha256 {found[:12]}, manifest says {manifest['model_sha256'][:12]}",
                                  remedy="restore that model, or build the index again with this one")
        self._scanner = DeviceScanner(self.shards) if device == "cuda" else CpuScanner(self.shards, threads)

    def __len__(self) -> int:
        return self._count

    def budget(self) -> str:
        """What memory serving takes."""
        size = self._count * self.dim * 2
        return f"dense, {self._count:,} x {self.dim} float16 = {size / 1e6:,.1f} MB {self._scanner.budget}"

    def search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search with embeddings (n, dim) float32; returns scores (n, k) float64 and rows (n, k), exact, best first."""
        k = min(k, self._count)
        _, rows = self._scanner.candidates(queries, min(k + SPARE, self._count))
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((*rows.shape, self.dim), dtype=np.float16)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            vectors[here] = self.shards[shard][rows[here] - self._starts[shard]]
        return rescore(queries, vectors, rows, k)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """See `tir.retrieval.index.Index.search`."""
        if not queries:
            return []
        scores, rows = self.search_vectors(self.encoder.encode(queries, kind="query"), k)
        return [[Passage(*self.corpus.row(row), score) for row, score in zip(rows_of, scores_of, strict=True)]
                for rows_of, scores_of in zip(rows.tolist(), scores.tolist(), strict=True)]


def _open_shard(directory: Path, shard: dict[str, Any], dim: int, verify: bool) -> np.ndarray:
    path = open_piece(directory, shard["file"], shard["sha256"] if verify else None)
    vectors = open_array(path)
    if vectors.shape != (shard["rows"], dim) or vectors.dtype != np.float16:
        raise DataError("shard of the wrong shape", where=str(path), why=f"{vectors.dtype} {vectors.shape}",
                        remedy=REMEDY)
    return vectors


def default_threads() -> int:
    """Half of the cores this process may use, at least one: a retrieval server shares its machine with an engine."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
