"""Build an index from a corpus; a killed build goes on where it stopped.

The work happens in `OUTPUT.partial`, one file per shard of rows, each renamed into place when complete. At the end the
manifest is written and the directory takes its name, so OUTPUT is whole or absent. Given an OUTPUT of the same work,
the build checks it and makes anew only what is missing or corrupt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tir.errors import ConfigError, DataError
from tir.records import atomic_path, digest, file_digest, read_json, write_json
from tir.retrieval.bm25 import BM25Config, build_bm25
from tir.retrieval.corpus import Corpus, CorpusScan, scan
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest, model_revision
from tir.retrieval.pieces import FORMAT, MANIFEST, VERIFY_BELOW_BYTES, index_digest

CHUNK_ROWS = 2048  # rows encoded, and held as float32, at a time


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build_index(corpus: str | os.PathLike, output: str | os.PathLike, config: EncoderConfig | BM25Config, *,
                shard_rows: int = 65536, say: Callable[[str], None] = _say) -> str:
    """Build the index of `corpus` in directory `output`.

    Args:
        corpus: FlashRAG JSON Lines.
        output: the index directory; its `.partial` sibling holds unfinished work.
        config: `EncoderConfig` for a dense index, `BM25Config` for a sparse one.
        shard_rows: rows per vector file; the most that a kill can cost.
        say: receives the memory budget and one line per shard.

    Returns:
        The index digest.

    Raises:
        DataError: bad corpus, no space. CheckpointError: no encoder.
    """
    started = time.monotonic()
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial")
    if output.exists() and any(output.iterdir()) and not (output / "work.json").exists():
        raise DataError("not an index directory", where=str(output), remedy="--output NEW_DIRECTORY",
                        why="it holds other files, and a build replaces it")
    found = scan(corpus)
    encoder = Encoder(config) if isinstance(config, EncoderConfig) else None
    manifest = {
        "format": FORMAT,
        "backend": "dense" if encoder else "bm25",
        "settings": config.identity(),
        "corpus_sha256": found.sha256,
        "model_sha256": model_digest(encoder.directory) if encoder else None,
        "model_revision": model_revision(config.model, encoder.directory) if encoder else None,
        "count": found.rows,
    }
    work = digest({"index": index_digest(manifest), "shard_rows": shard_rows})
    _take_up(output, partial, work)
    say(_budget(found, encoder, shard_rows, partial) if encoder else
        f"index budget: bm25 over {found.offsets[-1] / 1e6:,.1f} MB of text; building holds its tokens in memory, "
        f"about {8 * found.offsets[-1] / 1e6:,.0f} MB")
    _place_corpus(Path(corpus), partial, found)
    rows = Corpus(partial / "corpus.jsonl", found.offsets, shown_as=corpus)
    if encoder:
        shards = _encode_shards(rows, encoder, partial, shard_rows, say)
        manifest |= {"dim": encoder.dim, "dtype": "float16", "shard_rows": shard_rows, "shards": shards}
    else:
        build_bm25(rows, config, partial)
    write_json(partial / MANIFEST, manifest)
    if output.exists():
        shutil.rmtree(output)
    os.replace(partial, output)
    say(f"index {index_digest(manifest)}: {found.rows:,} passages in {output}, {time.monotonic() - started:.1f} s")
    return index_digest(manifest)


def index_config(params: Mapping[str, Any]) -> tuple[EncoderConfig | BM25Config, int]:
    """Read a rule's parameters: `{backend: dense|bm25, encoder: {...}, bm25: {...}, shard_rows, device}`.

    Returns:
        The configuration of the chosen backend, and the rows per shard. Raises `ConfigError`.
    """
    backend, shard_rows = params.get("backend", "dense"), params.get("shard_rows", 65536)
    if backend == "dense":
        device = {"device": params["device"]} if "device" in params else {}
        return EncoderConfig.from_mapping({**(params.get("encoder") or {}), **device}, "retrieval.encoder"), shard_rows
    if backend == "bm25":
        return BM25Config.from_mapping(params.get("bm25") or {}, "retrieval.bm25"), shard_rows
    raise ConfigError("unknown backend", where="retrieval.backend", why=repr(backend), remedy="backend: dense, or bm25")


def _take_up(output: Path, partial: Path, work: str) -> None:
    """Make `partial` hold what an earlier run of the same work left, and nothing of another."""
    def is_same(directory: Path) -> bool:
        with contextlib.suppress(DataError):
            return read_json(directory / "work.json") == {"work": work}
        return False

    if partial.exists() and not is_same(partial):
        stale = output.with_name(f"{output.name}.stale")  # set aside, not deleted: it may be hours of encoding
        shutil.rmtree(stale, ignore_errors=True)
        os.replace(partial, stale)
    if not partial.exists() and is_same(output):
        os.replace(output, partial)
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in (partial / MANIFEST, *partial.glob(".*")):  # a killed run's temporary files
        leftover.unlink(missing_ok=True)
    write_json(partial / "work.json", {"work": work})


def _budget(found: CorpusScan, encoder: Encoder, shard_rows: int, partial: Path) -> str:
    """The line that says what memory and disk the build will take; raises `DataError` if the disk is too small."""
    vectors, text = found.rows * encoder.dim * 2, int(found.offsets[-1])
    present = sum(path.stat().st_size for path in partial.iterdir() if path.is_file())
    free = shutil.disk_usage(partial).free
    if vectors + text - present > free:
        raise DataError("not enough disk", where=str(partial),
                        why=f"{(vectors + text - present) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
                        remedy="free space or choose another output, then run the same command again")
    weights = sum(path.stat().st_size for path in encoder.directory.glob("*.safetensors"))
    chunk = CHUNK_ROWS * encoder.dim * 4
    memory = weights + chunk + found.offsets.nbytes
    return (f"index budget: {found.rows:,} x {encoder.dim} float16 = {vectors / 1e6:,.1f} MB on disk "
            f"(+ {text / 1e6:,.1f} MB corpus, {free / 1e9:,.0f} GB free) in {-(-found.rows // shard_rows)} shards; "
            f"memory {memory / 1e6:,.0f} MB = encoder {weights / 1e6:,.0f} + float32 chunk {chunk / 1e6:,.1f} "
            f"+ offsets {found.offsets.nbytes / 1e6:,.1f}, besides torch and activations")


def _place_corpus(corpus: Path, partial: Path, found: CorpusScan) -> None:
    target = partial / "corpus.jsonl"
    if not (target.exists() and file_digest(target) == found.sha256):
        target.unlink(missing_ok=True)
        # A small corpus is copied: no edit in place can reach it. For a large one a link saves 14 GB.
        try:
            if found.offsets[-1] < VERIFY_BELOW_BYTES:
                raise OSError
            os.link(corpus.resolve(), target)
        except OSError:  # small, on another file system, or another owner's
            with atomic_path(target) as temporary:
                shutil.copyfile(corpus, temporary)
        if file_digest(target) != found.sha256:
            raise DataError("corpus changed while it was read", where=str(corpus), remedy="run the same command again")
    with atomic_path(partial / "offsets.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, found.offsets)


def _encode_shards(rows: Corpus, encoder: Encoder, partial: Path, shard_rows: int,
                   say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Encode what is not there yet; returns the manifest's list of shards."""
    progress = partial / "progress.json"
    known = {}
    if progress.exists():
        with contextlib.suppress(DataError):
            known = {shard["file"]: shard for shard in read_json(progress)}
    shards, starts = [], range(0, len(rows), shard_rows)
    encoded, began = 0, time.monotonic()
    for number, start in enumerate(starts):
        stop = min(start + shard_rows, len(rows))
        path = partial / f"vectors-{number:05d}.npy"
        shard = known.get(path.name)
        if shard is None or not path.exists() or file_digest(path) != shard["sha256"]:
            _encode_shard(rows, encoder, path, start, stop)
            shard = {"file": path.name, "rows": stop - start, "sha256": file_digest(path)}
            known[path.name] = shard
            write_json(progress, list(known.values()))
            encoded += stop - start
            rate = encoded / (time.monotonic() - began)
            say(f"shard {number + 1}/{len(starts)}: rows {start:,}-{stop:,}, {rate:,.0f} passages/s, "
                f"{(len(rows) - stop) / rate:,.0f} s left")
        else:
            say(f"shard {number + 1}/{len(starts)}: kept")
        shards.append(shard)
    return shards


def _encode_shard(rows: Corpus, encoder: Encoder, path: Path, start: int, stop: int) -> None:
    with atomic_path(path) as temporary:
        vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(stop - start, encoder.dim))
        for first in range(start, stop, CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, stop)
            vectors[first - start : last - start] = encoder.encode(list(rows.contents(first, last)), kind="passage")
        vectors.flush()
