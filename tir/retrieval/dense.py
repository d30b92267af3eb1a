"""Dense index: a sentence encoder and the float16 vectors of all passages, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tir.common.errors import CheckpointError, DataError
from tir.retrieval.codes import Codes, load
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest
from tir.retrieval.files import ENCODER, REMEDY, VERIFY_BELOW_BYTES, checked_path, index_digest, open_array, open_corpus
from tir.retrieval.passage import Passage
from tir.retrieval.scan import Vectors, search
from tir.retrieval.scanners import RESIDENT_BYTES, CodeScanner, FlatScanner, gpu_scanner, visible_gpus


class DenseIndex:
    """Exact inner-product search. `tir.retrieval.index.load_index` documents the arguments and errors.

    Attributes:
        shards: the memory-mapped float16 matrices, in row order.
    """

    def __init__(
        self,
        directory: Path,
        manifest: dict[str, Any],
        *,
        model: str | None,
        device: str,
        threads: int,
    ):
        self.manifest, self.digest = manifest, index_digest(manifest)
        self._count, self.dim = manifest["count"], manifest["dim"]
        verify = self._count * self.dim * 2 < VERIFY_BELOW_BYTES
        self.shards = [_open_shard(directory, shard, self.dim, verify) for shard in manifest["shards"]]
        shard_codes = [_open_codes(directory, shard, self.dim, verify) for shard in manifest["shards"]]
        self._vectors = Vectors(self.shards)
        if len(self._vectors) != self._count:
            raise DataError(
                "wrong number of vectors",
                where=str(directory),
                why=f"the shards have {len(self._vectors)} rows, the manifest {self._count}",
                remedy=REMEDY,
            )
        self.corpus = open_corpus(directory, manifest, verify)
        threads = threads or default_threads()
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda":
            visible_gpus()  # raises before the encoder is loaded if there is no GPU
        config = EncoderConfig.from_mapping(manifest["settings"], f"{directory}/manifest.json:settings")
        copy = directory / ENCODER
        model = model or (str(copy) if copy.is_dir() else config.model)
        self.encoder = Encoder(config.on(device, threads).model_copy(update={"model": model}))
        actual, expected = model_digest(self.encoder.directory), manifest["model_sha256"]
        if actual != expected:
            raise CheckpointError(
                "encoder is not the one the index was built with",
                where=str(self.encoder.directory),
                why=f"its sha256 is {actual[:12]}, that in the manifest {expected[:12]}",
                remedy="restore the original model, or build the index again with this one",
            )
        if device == "cuda":
            self._scanner = gpu_scanner(self.shards, shard_codes, visible_gpus())
        elif self._count * self.dim * 4 <= RESIDENT_BYTES:
            self._scanner = FlatScanner(self.shards, threads=threads)
        else:
            self._scanner = CodeScanner(shard_codes)

    def __len__(self) -> int:
        return self._count

    def budget(self) -> str:
        """Memory needed for serving, for the log."""
        size = self._count * self.dim * 2
        return f"dense, {self._count:,} x {self.dim} float16 = {size / 1e6:,.1f} MB {self._scanner.budget}"

    def search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact search with embeddings (n, dim) float32; returns scores (n, k) float64 and rows (n, k), best first."""
        return search(self._scanner, self._vectors, queries, k)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """See `tir.retrieval.index.Index.search`."""
        if not queries:
            return []
        scores, rows = self.search_vectors(self.encoder.encode(queries, kind="query"), k)
        return [
            [Passage(*self.corpus.row(row), score) for row, score in zip(query_rows, query_scores, strict=True)]
            for query_rows, query_scores in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


def _open_shard(directory: Path, shard: dict[str, Any], dim: int, verify: bool) -> np.ndarray:
    path = checked_path(directory, shard["file"], shard["sha256"] if verify else None)
    vectors = open_array(path)
    if vectors.shape != (shard["rows"], dim) or vectors.dtype != np.float16:
        raise DataError(
            "shard has the wrong shape or type",
            where=str(path),
            why=f"it is {vectors.dtype} {vectors.shape}, expected float16 {(shard['rows'], dim)}",
            remedy=REMEDY,
        )
    return vectors


def _open_codes(directory: Path, shard: dict[str, Any], dim: int, verify: bool) -> Codes:
    path = checked_path(directory, shard["codes"]["file"], shard["codes"]["sha256"] if verify else None)
    return load(path, (shard["rows"], dim), REMEDY)


def default_threads() -> int:
    """Half of the cores this process may use, at least one; the engine of the same job uses the other half."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
