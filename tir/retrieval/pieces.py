"""The files of an index, opened and checked.

An index is a directory:

    manifest.json   written last: model, prefixes, corpus digest, counts, shards; its digest is the index digest
    corpus.jsonl    the corpus: copied, or from 1 GiB on hard-linked where possible
    offsets.npy     int64 byte offsets of the corpus rows
    vectors-*.npy   float16 (rows, dim), one file per shard        (dense)
    bm25/           bm25s' own files                               (bm25)
    work.json, progress.json    what lets a later build reuse the shards

A directory without a manifest is an unfinished index and is never served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tir.errors import DataError
from tir.records import digest, file_digest, read_json
from tir.retrieval.corpus import Corpus

FORMAT = 1
MANIFEST = "manifest.json"
VERIFY_BELOW_BYTES = 1 << 30
REMEDY = "run the index build again; only what is missing or corrupt is made anew"


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a finished index; raises `DataError` if there is none or it is of another format."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        why = "no manifest.json: the build did not finish" if Path(directory).is_dir() else "no such directory"
        raise DataError("not a finished index", where=str(directory), why=why,
                        remedy=f"python -m scripts.build_index --corpus CORPUS --output {directory} --params '...'")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError("index of another format", where=str(path), why=f"format {FORMAT} expected",
                        remedy=f"rm -r {directory}  # then build it again")
    return manifest


def index_digest(manifest: dict[str, Any]) -> str:
    """The name of an index: digest of what decides its answers."""
    settings = {key: value for key, value in manifest["settings"].items() if key != "model"}  # its digest is there
    parts = {key: manifest[key] for key in ("backend", "corpus_sha256", "model_sha256")}
    return digest({"settings": settings, **parts})


def open_piece(directory: Path, name: str, sha256: str | None = None) -> Path:
    """Path of a piece of an index; raises `DataError` if it is missing or, with `sha256`, corrupt."""
    path = directory / name
    if not path.exists():
        raise DataError("piece of the index missing", where=str(path), remedy=REMEDY)
    if sha256 and file_digest(path) != sha256:
        raise DataError("piece of the index corrupt", where=str(path), why="sha256 differs from the manifest",
                        remedy=REMEDY)
    return path


def open_array(path: Path) -> np.ndarray:
    """Memory-map a .npy file; raises `DataError` if it is cut short or not one."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError("not a complete .npy file", where=str(path), why=str(error), remedy=REMEDY) from None


def open_corpus(directory: Path, manifest: dict[str, Any], verify: bool | None) -> Corpus:
    """The corpus of an index; raises `DataError` if it does not match the manifest."""
    path = open_piece(directory, "corpus.jsonl")
    if verify if verify is not None else path.stat().st_size < VERIFY_BELOW_BYTES:
        open_piece(directory, "corpus.jsonl", manifest["corpus_sha256"])
    corpus = Corpus(path, open_array(open_piece(directory, "offsets.npy")))
    if len(corpus) != manifest["count"]:
        raise DataError("corpus and manifest differ", where=str(directory), remedy=REMEDY,
                        why=f"{len(corpus)} rows, not {manifest['count']}")
    return corpus
