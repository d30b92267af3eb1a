"""The interface of all indexes, and `load_index`. `files` documents the files of an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tir.common.errors import DataError
from tir.retrieval.files import MANIFEST, read_manifest
from tir.retrieval.passage import Passage


class Index(Protocol):
    """The interface that the server uses.

    Attributes:
        digest: digest of corpus, model and settings; indexes with equal digests return equal results.
    """

    digest: str

    def __len__(self) -> int: ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The k best passages of each query, best first; fewer only if the index has, or BM25 matches, fewer."""
        ...

    def budget(self) -> str:
        """Memory needed for serving, for the log."""
        ...


def load_index(
    directory: str | os.PathLike,
    *,
    model: str | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Index:
    """Open a finished index for searching; check the sha256 of its files if the vectors are smaller than 1 GiB.

    An index without vectors is checked if its corpus is smaller.

    Args:
        directory: an index directory, written by `build_index`.
        model: another directory with the same encoder; None: the copy in the index.
        device: "cpu", "cuda" (float16 vectors sharded over all GPUs) or "auto" (cuda if available).
        threads: CPU threads of encoder and scan; 0: half of the cores this process may use, at least one.

    Raises:
        DataError: a file of the index is missing or corrupt.
        CheckpointError: the encoder is missing, or is not the one the index was built with.
    """
    manifest = read_manifest(directory)
    try:
        if manifest["backend"] == "bm25":
            from tir.retrieval.bm25 import BM25Index

            return BM25Index(Path(directory), manifest)
        from tir.retrieval.dense import DenseIndex

        return DenseIndex(Path(directory), manifest, model=model, device=device, threads=threads)
    except KeyError as missing:
        raise DataError(
            "manifest incomplete",
            where=str(Path(directory) / MANIFEST),
            why=f"no key {missing}",
            remedy=f"rm -r {directory}  # then build it again",
        ) from None
