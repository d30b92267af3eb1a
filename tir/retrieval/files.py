"""Open and check the files of an index.

An index is a directory:

    manifest.json   written last: model, prefixes, corpus checksum, counts, shards; the index digest is computed from it
    corpus.jsonl    the corpus: copied, or from 1 GiB hard-linked where possible
    encoder/        copy of the encoder's model directory          (dense)
    offsets.npy     int64 byte offsets of the corpus rows
    vectors-*.npy   float16 (rows, dim), one file per shard        (dense)
    codes-*.safetensors     int8 codes of the same rows, `codes`   (dense)
    bm25/           files of bm25s                                 (bm25)
    work.json, progress.json    used by a later build to reuse the shards

A directory without a manifest is an unfinished index and is never served.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np

from tir.common.errors import DataError
from tir.common.records import digest, file_digest, read_json
from tir.retrieval.corpus import Corpus

FORMAT = 2
MANIFEST = "manifest.json"
ENCODER = "encoder"
VERIFY_BELOW_BYTES = 1 << 30
LOOK_EVERY_S = 1.0
REMEDY = "run the index build again; it rebuilds only missing and corrupt files"


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a finished index; raises `DataError` if it is missing or has another format."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        why = "no manifest.json: the build did not finish" if Path(directory).is_dir() else "no such directory"
        raise DataError(
            "not a finished index",
            where=str(directory),
            why=why,
            remedy=f"tir-retrieval build CORPUS {directory}  # in the workflow: repeat the Snakemake command",
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(
            "index has another format",
            where=str(path),
            why=f"expected format {FORMAT}",
            remedy="run the index build again; it keeps the vectors if corpus and encoder are the same",
        )
    return manifest


def index_digest(manifest: dict[str, Any]) -> str:
    """Digest of everything that determines the results of an index: corpus, model, settings."""
    # The model is identified by model_sha256, not by its name.
    settings = {key: value for key, value in manifest["settings"].items() if key != "model"}
    identity = {key: manifest[key] for key in ("backend", "corpus_sha256", "model_sha256")}
    return digest({"settings": settings, **identity})


def is_dense(manifest: dict[str, Any]) -> bool:
    """Whether every query has passages; BM25 finds none without a shared term."""
    return manifest["backend"] != "bm25"


class Watch:
    """Notices that the files of an index are no longer those that were there before: edited, replaced or removed.

    The manifest is compared by its text, because `snakemake --touch` sets its time; all other files by identity, size
    and time of change. Make it before the index is loaded.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory, self._before = Path(directory), self._state(Path(directory))
        self._looked, self._found = time.monotonic(), ""

    def changed(self) -> str:
        """What has changed, or ""; looks at most once a second, and not again after a change."""
        if not self._found and time.monotonic() - self._looked >= LOOK_EVERY_S:
            now = self._state(self._directory)
            name = next((name for name in {**self._before, **now} if self._before.get(name) != now.get(name)), None)
            self._looked = time.monotonic()
            if name:
                self._found = f"{self._directory / name} has changed since the index was loaded; restart the server"
        return self._found

    @staticmethod
    def _state(directory: Path) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for path in sorted(directory.rglob("*")):
            with contextlib.suppress(OSError):
                found, name = path.stat(), path.relative_to(directory).as_posix()
                if name == MANIFEST:
                    state[name] = path.read_bytes()
                elif stat.S_ISREG(found.st_mode) and not path.name.startswith("."):
                    state[name] = (found.st_ino, found.st_size, found.st_mtime_ns)
        return state


def checked_path(directory: Path, name: str, sha256: str | None = None) -> Path:
    """Path of a file of an index; raises `DataError` if it is missing or, with `sha256`, corrupt."""
    path = directory / name
    if not path.exists():
        raise DataError("index file missing", where=str(path), why="the manifest lists it", remedy=REMEDY)
    if sha256 and file_digest(path) != sha256:
        raise DataError(
            "index file corrupt", where=str(path), why="its sha256 differs from the manifest", remedy=REMEDY
        )
    return path


def open_array(path: Path) -> np.ndarray:
    """Memory-map a .npy file; raises `DataError` if it is truncated or invalid."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError("not a complete .npy file", where=str(path), why=str(error), remedy=REMEDY) from None


def open_corpus(directory: Path, manifest: dict[str, Any], verify: bool | None = None) -> Corpus:
    """The corpus of an index; raises `DataError` if it does not match the manifest.

    Args:
        verify: check its sha256; None: only if it is smaller than 1 GiB.
    """
    path = checked_path(directory, "corpus.jsonl")
    if verify if verify is not None else path.stat().st_size < VERIFY_BELOW_BYTES:
        checked_path(directory, "corpus.jsonl", manifest["corpus_sha256"])
    corpus = Corpus(path, open_array(checked_path(directory, "offsets.npy")))
    if len(corpus) != manifest["count"]:
        raise DataError(
            "corpus and manifest differ",
            where=str(directory),
            why=f"the corpus has {len(corpus)} rows, the manifest {manifest['count']}",
            remedy=REMEDY,
        )
    return corpus
