"""The interface every index has, and `load_index`; what lies in an index's directory is in `pieces`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tir.errors import DataError
from tir.retrieval.passage import Passage
from tir.retrieval.pieces import MANIFEST, read_manifest


class Index(Protocol):
    """What a server needs of an index.

    Attributes:
        digest: names corpus, model and settings; two indexes with the same digest give the same answers.
    """

    digest: str

    def __len__(self) -> int: ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The k best passages of each query, best first; fewer only if the index holds (or BM25 matches) fewer."""
        ...

    def budget(self) -> str:
        """What memory serving takes, for the log."""
        ...


def load_index(directory: str | os.PathLike, *, model: str | None = None, device: str = "auto", threads: int = 0,
               verify: bool | None = None) -> Index:
    """Open a finished index for searching.

    Args:
        directory: what `build_index` wrote.
        model: where the encoder is on this machine, if not where the manifest says; it must be the same one.
        device: "cpu", "cuda" (float16 vectors sharded over all GPUs) or "auto" (cuda if there is one).
        threads: CPU threads of encoder and scan; 0 = half of the cores this process may use, at least one.
        verify: check the sha256 of corpus and shards; None does so for files below 1 GiB in all.

    Raises:
        DataError: a piece is missing or corrupt; names it and how to make it again.
        CheckpointError: the encoder is missing or is not the one the index was built with.
    """
    manifest = read_manifest(directory)
    try:
        if manifest["backend"] == "bm25":
            from tir.retrieval.bm25 import BM25Index

            return BM25Index(Path(directory), manifest, verify=verify)
        from tir.retrieval.dense import DenseIndex

        return DenseIndex(Path(directory), manifest, model=model, device=device, threads=threads, verify=verify)
    except KeyError as missing:
        raise DataError("manifest incomplete", where=str(Path(directory) / MANIFEST), why=f"no key {missing}",
                        remedy=f"rm -r {directory}  # then build it again") from None
