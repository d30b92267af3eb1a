"""Build an index from a corpus; an interrupted build can be continued.

The build writes to `OUTPUT.partial`, with one file per shard of rows, each renamed into place when complete. At the end
it writes the manifest and renames the directory, so OUTPUT is either complete or absent. If OUTPUT exists and was built
from the same corpus and settings, the build checks it and rebuilds only missing or corrupt files. An unfinished build
of another corpus or of other settings is moved to `OUTPUT.<digest>.stale`, and is continued when these are built again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tir.common.errors import DataError
from tir.common.files import atomic_path, only_writer
from tir.common.records import digest, file_digest, read_json, write_json
from tir.retrieval.bm25 import BM25Config, build_bm25
from tir.retrieval.codes import code, save
from tir.retrieval.corpus import Corpus, CorpusScan, scan
from tir.retrieval.encoder import Encoder, EncoderConfig, model_digest, model_facts
from tir.retrieval.files import ENCODER, FORMAT, MANIFEST, VERIFY_BELOW_BYTES, index_digest, open_array

CHUNK_ROWS = 2048  # rows encoded at a time, kept as float32


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build_index(
    corpus: str | os.PathLike,
    output: str | os.PathLike,
    config: EncoderConfig | BM25Config,
    *,
    shard_rows: int = 65536,
    log: Callable[[str], None] = _print_to_stderr,
) -> str:
    """Build the index of `corpus` in the directory `output`.

    Args:
        corpus: JSON Lines in FlashRAG's format.
        output: the index directory; an unfinished build is in `OUTPUT.partial`.
        config: `EncoderConfig` for a dense index, `BM25Config` for a sparse one.
        shard_rows: rows per vector file; an interruption loses at most one such file.
        log: called with the memory budget and one line per shard.

    Returns:
        The index digest.

    Raises:
        DataError: the corpus is invalid, or the disk is too small.
        CheckpointError: the encoder cannot be found or read.
        OutputInUse: another process builds `output`.
    """
    with only_writer(output):
        return _build(corpus, Path(output), config, shard_rows, log)


def _build(
    corpus: str | os.PathLike,
    output: Path,
    config: EncoderConfig | BM25Config,
    shard_rows: int,
    log: Callable[[str], None],
) -> str:
    started = time.monotonic()
    partial = output.with_name(f"{output.name}.partial")
    if output.exists() and any(output.iterdir()) and not (output / "work.json").exists():
        raise DataError(
            "not an index directory",
            where=str(output),
            why="it contains other files, and a build would replace them",
            remedy="give a new or empty directory for the index",
        )
    corpus_scan = scan(corpus)
    encoder = Encoder(config) if isinstance(config, EncoderConfig) else None
    manifest = {
        "format": FORMAT,
        "backend": "dense" if encoder else "bm25",
        "settings": config.identity(),
        "corpus_sha256": corpus_scan.sha256,
        "model_sha256": model_digest(encoder.directory) if encoder else None,
        "model": model_facts(config.model, encoder.directory) if encoder else None,
        "count": corpus_scan.rows,
    }
    work = digest({"index": index_digest(manifest), "shard_rows": shard_rows})
    _prepare(output, partial, work)
    text_bytes = corpus_scan.offsets[-1]
    log(
        _budget(corpus_scan, encoder, shard_rows, partial)
        if encoder
        else f"index budget: bm25 over {text_bytes / 1e6:,.1f} MB of text; the build keeps all tokens in memory, "
        f"about {8 * text_bytes / 1e6:,.0f} MB"
    )
    _copy_corpus(Path(corpus), partial, corpus_scan)
    if encoder:
        _copy_encoder(encoder.directory, partial / ENCODER)
    rows = Corpus(partial / "corpus.jsonl", corpus_scan.offsets, shown_as=corpus)
    if encoder:
        shards = _encode_shards(rows, encoder, partial, shard_rows, log)
        manifest |= {"dim": encoder.dim, "dtype": "float16", "shard_rows": shard_rows, "shards": shards}
    else:
        build_bm25(rows, config, partial)
    write_json(partial / MANIFEST, manifest)
    if output.exists():
        shutil.rmtree(output)
    os.replace(partial, output)
    elapsed = time.monotonic() - started
    log(f"index {index_digest(manifest)}: {corpus_scan.rows:,} passages in {output}, {elapsed:.1f} s")
    return index_digest(manifest)


def _prepare(output: Path, partial: Path, work: str) -> None:
    """Make `partial` contain the files of an earlier build of the same work, or none."""

    def work_in(directory: Path) -> Any:
        with contextlib.suppress(DataError):
            return read_json(directory / "work.json")
        return None

    def aside(found: Any) -> Path:
        return output.with_name(f"{output.name}.{digest(found)}.stale")

    wanted = {"work": work}
    if partial.exists() and work_in(partial) != wanted:
        kept = aside(work_in(partial))  # it may contain hours of encoding, and is continued when that is wanted again
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(partial, kept)
    for directory in (output, aside(wanted)):
        if not partial.exists() and work_in(directory) == wanted:
            os.replace(directory, partial)
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in (partial / MANIFEST, *partial.glob(".*")):  # temporary files of an interrupted build
        leftover.unlink(missing_ok=True)
    write_json(partial / "work.json", wanted)


def _budget(corpus_scan: CorpusScan, encoder: Encoder, shard_rows: int, partial: Path) -> str:
    """One line with the memory and disk that the build needs; raises `DataError` if the disk is too small."""
    vectors, text = corpus_scan.rows * encoder.dim * 2, int(corpus_scan.offsets[-1])
    codes = corpus_scan.rows * (encoder.dim + 4)
    present = sum(path.stat().st_size for path in partial.iterdir() if path.is_file())
    free = shutil.disk_usage(partial).free
    if vectors + codes + text - present > free:
        raise DataError(
            "not enough disk",
            where=str(partial),
            why=f"{(vectors + codes + text - present) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
            remedy="free space or choose another output, then run the same command again",
        )
    weights = sum(path.stat().st_size for path in encoder.directory.glob("*.safetensors"))
    chunk = CHUNK_ROWS * encoder.dim * 4
    offsets = corpus_scan.offsets.nbytes
    memory = weights + chunk + offsets
    return (
        f"index budget: {corpus_scan.rows:,} x {encoder.dim} float16 = {vectors / 1e6:,.1f} MB on disk "
        f"(+ {codes / 1e6:,.1f} MB int8 codes, {text / 1e6:,.1f} MB corpus, {free / 1e9:,.0f} GB free) "
        f"in {-(-corpus_scan.rows // shard_rows)} shards; "
        f"memory {memory / 1e6:,.0f} MB = encoder {weights / 1e6:,.0f} + float32 chunk {chunk / 1e6:,.1f} "
        f"+ offsets {offsets / 1e6:,.1f}, in addition to torch and activations"
    )


def _copy_corpus(corpus: Path, partial: Path, corpus_scan: CorpusScan) -> None:
    """Copy a small corpus, or hard-link a large one, into the index, and write its row offsets."""
    target = partial / "corpus.jsonl"
    if not (target.exists() and file_digest(target) == corpus_scan.sha256):
        target.unlink(missing_ok=True)
        # A copy is safe from later edits of the corpus. For the paper's corpus a link saves 14 GB.
        try:
            if corpus_scan.offsets[-1] < VERIFY_BELOW_BYTES:
                raise OSError
            os.link(corpus.resolve(), target)
        except OSError:  # the corpus is small, on another file system, or owned by another user
            with atomic_path(target) as temporary:
                shutil.copyfile(corpus, temporary)
        if file_digest(target) != corpus_scan.sha256:
            raise DataError(
                "corpus changed during the build",
                where=str(corpus),
                why="its sha256 differs from the first pass",
                remedy="run the same command again",
            )
    with atomic_path(partial / "offsets.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, corpus_scan.offsets)


def _copy_encoder(directory: Path, target: Path) -> None:
    """Copy the encoder into the index, so that serving needs no other files and no network."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for pattern in ("*.json", "*.txt", "*.safetensors"):
        for file in directory.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _encode_shards(
    rows: Corpus, encoder: Encoder, partial: Path, shard_rows: int, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Encode missing and corrupt shards; returns the manifest's list of shards."""
    progress = partial / "progress.json"
    known = {}
    if progress.exists():
        with contextlib.suppress(DataError):
            known = {shard["file"]: shard for shard in read_json(progress)}
    shards, starts = [], range(0, len(rows), shard_rows)
    encoded, started = 0, time.monotonic()
    for number, start in enumerate(starts):
        stop = min(start + shard_rows, len(rows))
        path, codes_path = partial / f"vectors-{number:05d}.npy", partial / f"codes-{number:05d}.safetensors"
        shard = known.get(path.name, {})
        kept = _is_whole(path, shard)
        if not kept:
            _encode_shard(rows, encoder, path, start, stop)
            shard = {"file": path.name, "rows": stop - start, "sha256": file_digest(path)}
        if not kept or not _is_whole(codes_path, shard.get("codes", {})):
            with atomic_path(codes_path) as temporary:
                save(code(open_array(path), str(path)), temporary)
            shard |= {"codes": {"file": codes_path.name, "sha256": file_digest(codes_path)}}
            known[path.name] = shard
            write_json(progress, list(known.values()))
        if kept:
            log(f"shard {number + 1}/{len(starts)}: kept")
        else:
            encoded += stop - start
            rate = encoded / (time.monotonic() - started)
            log(
                f"shard {number + 1}/{len(starts)}: rows {start:,}-{stop:,}, {rate:,.0f} passages/s, "
                f"{(len(rows) - stop) / rate:,.0f} s left"
            )
        shards.append(shard)
    return shards


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a file of an earlier build is complete; `facts` has its sha256, or is empty if it is unknown."""
    return "sha256" in facts and path.exists() and file_digest(path) == facts["sha256"]


def _encode_shard(rows: Corpus, encoder: Encoder, path: Path, start: int, stop: int) -> None:
    with atomic_path(path) as temporary:
        vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(stop - start, encoder.dim))
        for first in range(start, stop, CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, stop)
            vectors[first - start : last - start] = encoder.encode(list(rows.contents(first, last)), kind="passage")
        vectors.flush()
