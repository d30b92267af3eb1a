"""Dense index: a sentence encoder and its float16 vectors, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tir.errors import CheckpointError, DataError
from tir.records import file_digest
from tir.retrieval.corpus import Corpus
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest
from tir.retrieval.index import index_digest, open_piece
from tir.retrieval.passage import Passage
from tir.retrieval.scan import SPARE, CpuScanner, GpuScanner, rescore

VERIFY_BELOW_BYTES = 1 << 30


class DenseIndex:
    """Exact inner-product search with the encoder that made the vectors.

    Args and errors: see `tir.retrieval.index.load_index`.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], *, device: str, threads: int, verify: bool | None):
        self.directory, self.manifest = directory, manifest
        self.digest = index_digest(manifest)
        self._count, self.dim = manifest["count"], manifest["dim"]
        total_bytes = self._count * self.dim * 2
        self._rebuild = "run the index build again; only what is missing or corrupt is made anew"
        self._shards = [self._open_shard(shard, verify if verify is not None else total_bytes < VERIFY_BELOW_BYTES)
                        for shard in manifest["shards"]]
        if sum(len(shard) for shard in self._shards) != self._count:
            raise DataError("shards do not add up", where=str(directory), why=f"{self._count} rows expected", remedy=self._rebuild)
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        offsets = load_array(open_piece(directory, "offsets.npy", rebuild=self._rebuild), self._rebuild)
        self.corpus = Corpus(open_piece(directory, "corpus.jsonl", rebuild=self._rebuild), offsets)
        if len(self.corpus) != self._count:
            raise DataError("corpus and vectors differ", where=str(directory), why=f"{len(self.corpus)} rows, {self._count} vectors",
                            remedy=self._rebuild)
        threads = threads or default_threads()
        config = EncoderConfig.from_mapping({**manifest["settings"], "device": device, "threads": threads}, str(directory))
        self.encoder = Encoder(config)
        found = model_digest(self.encoder.directory)
        if found != manifest["model_sha256"]:
            raise CheckpointError("encoder is not the one the index was built with", where=config.model,
                                  why=f"sha256 {found[:12]}, manifest says {manifest['model_sha256'][:12]}",
                                  remedy="restore that model, or build the index again with this one")
        self._scanner = (GpuScanner(self._shards) if self.encoder.device.type == "cuda"
                         else CpuScanner(self._shards, threads))

    def __len__(self) -> int:
        return self._count

    def _open_shard(self, shard: dict[str, Any], verify: bool) -> np.ndarray:
        path = open_piece(self.directory, shard["file"], rebuild=self._rebuild)
        if verify and file_digest(path) != shard["sha256"]:
            raise DataError("shard corrupt", where=str(path), why="sha256 differs from the manifest", remedy=self._rebuild)
        vectors = load_array(path, self._rebuild)
        if vectors.shape != (shard["rows"], self.dim) or vectors.dtype != np.float16:
            raise DataError("shard of the wrong shape", where=str(path), why=f"{vectors.dtype} {vectors.shape}", remedy=self._rebuild)
        return vectors

    def search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search with embeddings (n, dim) float32; returns scores (n, k) float64 and rows (n, k), exact, best first."""
        k = min(k, self._count)
        _, rows = self._scanner.candidates(queries, min(k + SPARE, self._count))
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((*rows.shape, self.dim), dtype=np.float16)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            vectors[here] = self._shards[shard][rows[here] - self._starts[shard]]
        return rescore(queries, vectors, rows, k)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """See `tir.retrieval.index.Index.search`."""
        if not queries:
            return []
        scores, rows = self.search_vectors(self.encoder.encode(queries, kind="query"), k)
        return [[Passage(*self.corpus.row(row), float(score)) for row, score in zip(rows_of, scores_of)]
                for rows_of, scores_of in zip(rows.tolist(), scores.tolist())]


def load_array(path: Path, remedy: str) -> np.ndarray:
    """Memory-map a .npy file; raises `DataError` if it is cut short or not one."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError("not a complete .npy file", where=str(path), why=str(error), remedy=remedy) from None


def default_threads() -> int:
    """Half of the cores this process may use, at least one: a retrieval server shares its machine with an engine."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
