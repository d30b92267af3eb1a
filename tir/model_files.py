"""Model directories: what makes one whole, checked before an engine or a trainer spends time on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tir.errors import CheckpointError
from tir.records import file_digest, read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(directory: str | Path, **facts: Any) -> None:
    """Write `manifest.json` of a model directory: facts, and the sha256 of every weights file. Written last, atomically.

    Raises `CheckpointError` if there are no weights.
    """
    directory = Path(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise CheckpointError("no weights", where=str(directory), why="no *.safetensors in it")
    write_json(directory / MANIFEST, {**facts, "sha256": {file.name: file_digest(file) for file in weights}})


def read_model_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a model directory; raises `CheckpointError` if it is missing or names other weights' files."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        raise CheckpointError("not a finished model", where=str(directory), why="no manifest.json")
    manifest = read_json(path)
    digests = manifest.get("sha256") if isinstance(manifest, dict) else None
    for name in digests if isinstance(digests, dict) else ():
        if not (Path(directory) / name).exists():
            raise CheckpointError("weights missing", where=str(Path(directory) / name), why="the manifest names them")
    return manifest


def weights_fault(file: Path) -> str | None:
    """Why a safetensors file cannot be read (it is not as long as its header says), or None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return None
    except (SafetensorError, OSError) as error:
        return str(error)


def check_weights(directory: str | Path) -> None:
    """Raise `CheckpointError` unless every weights file of a model directory is there and whole (headers and lengths, not digests)."""
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    named = read_json(index)["weight_map"].values() if index.exists() else ()
    for name in sorted(set(named)):
        if not (directory / name).exists():
            raise CheckpointError("weights missing", where=str(directory / name), why=f"{index.name} names them", remedy=_remedy(directory))
    files = sorted(directory.glob("*.safetensors"))
    if not files and not list(directory.glob("*.bin")):
        raise CheckpointError("no weights", where=str(directory), why="no *.safetensors in it", remedy=_remedy(directory))
    for file in files:
        if fault := weights_fault(file):
            raise CheckpointError("unreadable weights", where=str(file), why=fault, remedy=_remedy(directory))


def _remedy(directory: Path) -> str:
    return f"rm -r {directory}  # then give the same command again: the model is made or fetched anew"
