"""Bring a model that others trained to its place: whole, or not at all."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tir.data.hub import from_hub
from tir.errors import CheckpointError, DataError, InfrastructureFault
from tir.model_files import MANIFEST, check_weights, write_manifest
from tir.records import digest

_NEEDLESS = ("*.bin", "*.pth", "*.gguf", "*/*")  # the weights in other formats, and what lies in folders


def fetch_model(name: str, source: dict[str, Any], output: str | os.PathLike) -> None:
    """Bring a model directory to `output`, which is replaced when the new one is whole.

    It is gathered beside `output`, under a name of its source: a download that was stopped goes on, and no file of
    another source is among it. The manifest holds the sha256 of every weight file and, from a hub, the commit.

    Args:
        name: the model's id, e.g. `base`.
        source: a `tir.config.Source` as JSON.

    Raises:
        DataError: there is no such model, or it is none.
        InfrastructureFault: the hub did not answer, or stopped half-way.
    """
    output = Path(output)
    source = {key: value for key, value in source.items() if value is not None}
    gathered = output.with_name(f".{output.name}.{digest(source, 8)}")
    gathered.mkdir(parents=True, exist_ok=True)
    if source["kind"] == "local":
        _copy_model(name, Path(source["path"]), gathered)
        commit = {}
    else:
        commit = {"commit": _download_model(source, gathered)}
    _finish(name, source, gathered, commit)
    shutil.rmtree(output, ignore_errors=True)
    gathered.rename(output)
    for left in output.parent.glob(f".{output.name}.*"):  # half of what an earlier configuration asked for
        shutil.rmtree(left, ignore_errors=True)


def _copy_model(name: str, origin: Path, gathered: Path) -> None:
    if not (origin / "config.json").is_file():
        raise DataError("not a model directory", where=f"model.{name}.path", why=f"{origin} has no config.json")
    for left in gathered.iterdir():  # of an attempt that was refused: the source may have been mended since
        left.unlink()
    for file in origin.iterdir():
        if file.is_file() and file.name != MANIFEST:
            shutil.copy2(file, gathered / file.name)


def _download_model(source: dict[str, Any], gathered: Path) -> str:
    """Download what is not there yet; returns the commit."""
    from huggingface_hub import HfApi, snapshot_download

    # Asked first, for without an answer `snapshot_download` returns what an earlier attempt left, whole or not.
    known = from_hub(source, lambda: HfApi().model_info(source["repo"], revision=source.get("revision"), timeout=60))
    from_hub(source, lambda: snapshot_download(source["repo"], revision=known.sha, local_dir=gathered, ignore_patterns=list(_NEEDLESS)))
    wanted = [file.rfilename for file in known.siblings if not any(fnmatch(file.rfilename, each) for each in _NEEDLESS)]
    missing = [file for file in wanted if not (gathered / file).is_file()]
    if missing:
        raise InfrastructureFault("the download stopped half-way", where=source["repo"], why=f"{missing[0]} is not there",
                                  remedy="give the same command again: it goes on where it stopped")
    shutil.rmtree(gathered / ".cache", ignore_errors=True)
    for file in gathered.iterdir():  # a branch may have moved since an attempt that stopped
        if file.name not in wanted:
            file.unlink()
    return known.sha


def _finish(name: str, source: dict[str, Any], gathered: Path, facts: dict[str, str]) -> None:
    """Write the manifest of a model that has whole weights, a configuration and a tokenizer."""
    origin = str(source.get("path") or source["repo"])
    for kind, pattern in (("configuration", "config.json"), ("tokenizer", "tokenizer*")):
        if not list(gathered.glob(pattern)):
            raise DataError(f"a model without a {kind}", where=origin, why=f"it has no {pattern}", remedy=f"name another in model.{name}")
    try:
        check_weights(gathered)
        write_manifest(gathered, model=name, source=source, **facts)
    except CheckpointError as error:
        where, why = (text.replace(str(gathered), origin) for text in (error.where, error.why))
        raise DataError(error.what, where=where, why=why, remedy=f"correct it, or name another in model.{name}") from None
