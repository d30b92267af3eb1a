"""The interface every index has, its manifest, and `load_index`.

An index is a directory:

    manifest.json   written last: model, prefixes, corpus digest, counts, shards; its digest is the index digest
    corpus.jsonl    the corpus, hard-linked if the file system allows it, else copied
    offsets.npy     int64 byte offsets of the corpus rows
    vectors-*.npy   float16 (rows, dim), one file per shard        (dense)
    bm25/           bm25s' own files                               (bm25)

A directory without a manifest is an unfinished index and is never served.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tir.errors import DataError
from tir.records import digest, read_json
from tir.retrieval.passage import Passage

FORMAT = 1
MANIFEST = "manifest.json"


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


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a finished index; raises `DataError` if there is none or it is of another format."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        why = "no manifest.json: the build did not finish" if Path(directory).is_dir() else "no such directory"
        raise DataError("not a finished index", where=str(directory), why=why,
                        remedy=f"python -m scripts.build_index --corpus CORPUS.jsonl --output {directory} --params '...'")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError("index of another format", where=str(path), why=f"format {FORMAT} expected",
                        remedy=f"rm -r {directory}  # then build it again")
    return manifest


def index_digest(manifest: dict[str, Any]) -> str:
    """The name of an index: digest of what decides its answers."""
    return digest({key: manifest[key] for key in ("backend", "settings", "corpus_sha256", "model_sha256", "count")})


def load_index(directory: str | os.PathLike, *, device: str = "auto", threads: int = 0, verify: bool | None = None) -> Index:
    """Open a finished index for searching.

    Args:
        directory: what `build_index` wrote.
        device: "cpu", "cuda" (float16 vectors sharded over all GPUs) or "auto".
        threads: CPU threads of encoder and scan; 0 = half of the cores this process may use, at least one.
        verify: check every shard's sha256; None checks if the vectors are below 1 GiB.

    Raises:
        DataError: a piece is missing or corrupt; names it and how to make it again.
        CheckpointError: the encoder is missing or is not the one the index was built with.
    """
    manifest = read_manifest(directory)
    try:
        if manifest["backend"] == "bm25":
            from tir.retrieval.bm25 import BM25Index

            return BM25Index(Path(directory), manifest)
        from tir.retrieval.dense import DenseIndex

        return DenseIndex(Path(directory), manifest, device=device, threads=threads, verify=verify)
    except KeyError as missing:
        raise DataError("manifest incomplete", where=str(Path(directory) / MANIFEST), why=f"no key {missing}",
                        remedy=f"rm -r {directory}  # then build it again") from None


def open_piece(directory: Path, name: str, *, rebuild: str) -> Path:
    """Path of a piece of an index; raises `DataError` if it is not there."""
    path = directory / name
    if not path.exists():
        raise DataError("piece of the index missing", where=str(path), remedy=rebuild)
    return path
