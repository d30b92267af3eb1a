"""Fetch a published model from the hub, a local directory or an installed package, completely or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError, DataError, InfrastructureFault
from tir.common.files import only_writer
from tir.common.model_files import (
    MANIFEST,
    check_weights,
    has_chat_template,
    no_chat_template,
    packaged_model,
    write_manifest,
)
from tir.common.records import digest, read_json, write_json
from tir.common.trainable import check_trainable
from tir.data import hub
from tir.data.hub import from_hub

# Mistral's models hold their weights and tokenizer twice. Beside the second copies, libraries would read Mistral's own
# configuration and tokenizer, while others read those of Hugging Face; and parameters would be counted twice.
_SECOND_COPIES = ("consolidated*.safetensors", "tekken.json")
_IGNORED = ("*.bin", "*.pth", "*.gguf", *_SECOND_COPIES, "*/*")  # weights in other formats, and subfolders


def fetch_model(
    name: str, source: dict[str, Any], output: str | os.PathLike, *, chat: bool = False, trained: bool = False
) -> None:
    """Fetch a model directory and move it to `output` once it is complete.

    The files are collected in a directory beside `output` whose name depends on the source: an interrupted download
    continues, and files of different sources never mix. A branch is resolved once (`tir.data.hub`). The manifest
    records the sha256 of every weights file, the commit of a hub model and the version of a package.

    Args:
        name: the model's id, e.g. `base`.
        source: a `tir.config.ModelSource` as JSON.
        output: the model's final directory.
        chat: the model must have a chat template.
        trained: the model must be one that can be trained.

    Raises:
        ConfigError: the model cannot be trained.
        DataError: the model does not exist, is incomplete, or has no chat template.
        InfrastructureFault: the hub did not answer, or the download stopped early.
        OutputInUse: another process fetches this model.
    """
    with only_writer(output):
        _fetch(name, {key: value for key, value in source.items() if value is not None}, Path(output), chat, trained)


def _fetch(name: str, source: dict[str, Any], output: Path, chat: bool, trained: bool) -> None:
    partial = output.with_name(f".{output.name}.{digest(source, 8)}")
    partial.mkdir(parents=True, exist_ok=True)
    if source["kind"] == "local":
        _copy_model(name, Path(source["path"]), partial)
        pinned = {}
    elif source["kind"] == "package":
        _copy_model(name, _directory_of_package(name, source["package"]), partial)
        pinned = {"version": metadata.version(source["package"])}
    else:
        pinned = {"commit": _download_model(source, partial, hub.pinned(source, output))}
        hub.pin(source, output, pinned["commit"])
    if chat and not has_chat_template(partial):
        raise no_chat_template(_origin(source))
    if trained:
        check_trainable(partial, _origin(source))
    _name_tokenizer(partial)
    _check_and_write_manifest(name, source, partial, pinned)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    for leftover in output.parent.glob(f".{output.name}.{'?' * 8}"):  # interrupted downloads from earlier sources
        shutil.rmtree(leftover, ignore_errors=True)


def _copy_model(name: str, origin: Path, partial: Path) -> None:
    if not (origin / "config.json").is_file():
        raise DataError(
            "not a model directory",
            where=f"models.{name}.path",
            why=f"{origin} has no config.json",
            remedy=f"models: {{{name}: {{kind: local, path: DIRECTORY}}}}  # a Hugging Face model directory",
        )
    for file in partial.iterdir():  # left by a failed attempt; the source may have been corrected since
        file.unlink()
    for file in origin.iterdir():
        if file.is_file() and file.name != MANIFEST and not any(fnmatch(file.name, each) for each in _SECOND_COPIES):
            shutil.copy2(file, partial / file.name)


def _directory_of_package(name: str, package: str) -> Path:
    directory = packaged_model(package)
    if directory is None:
        raise DataError(
            "no such package",
            where=f"models.{name}.package",
            why=f"{package} is not installed in {sys.prefix}",
            remedy=f"models: {{{name}: {{kind: hub, repo: OWNER/NAME}}}}  # or install the package there",
        )
    return directory


def _download_model(source: dict[str, Any], partial: Path, revision: str | None) -> str:
    """Download the files of a revision that are still missing; returns its commit."""
    from huggingface_hub import HfApi, snapshot_download

    # Without a network `snapshot_download` returns an earlier partial download as success, so query the hub first.
    info = from_hub(
        source, lambda token: HfApi(token=token).model_info(source["repo"], revision=revision, timeout=60), revision
    )
    from_hub(
        source,
        lambda token: snapshot_download(
            source["repo"], revision=info.sha, local_dir=partial, ignore_patterns=list(_IGNORED), token=token
        ),
        info.sha,
    )
    names = [file.rfilename for file in info.siblings]
    names = [name for name in names if not any(fnmatch(name, pattern) for pattern in _IGNORED)]
    missing = [name for name in names if not (partial / name).is_file()]
    if missing:
        raise InfrastructureFault(
            "the download is incomplete",
            where=source["repo"],
            why=f"{missing[0]} is missing",
            remedy="run the same command again: the download continues where it stopped",
        )
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    for file in partial.iterdir():  # left by an interrupted download of an earlier commit of the branch
        if file.name not in names:
            file.unlink()
    return info.sha


def _name_tokenizer(directory: Path) -> None:
    """Name the general class for a byte-level tokenizer that declares Llama's, as DeepSeek-R1's distilled models do.

    transformers 5 gives Llama's class a SentencePiece decoder and pre-tokenizer, whatever `tokenizer.json` says. Spaces
    and line breaks then vanish without an error.
    """
    settings, tokenizer = directory / "tokenizer_config.json", directory / "tokenizer.json"
    if not (settings.is_file() and tokenizer.is_file()):
        return
    declared, decoder = read_json(settings), read_json(tokenizer).get("decoder") or {}
    parts = {decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", ()))}
    if "ByteLevel" in parts and declared.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast"):
        write_json(settings, declared | {"tokenizer_class": "PreTrainedTokenizerFast"})
        print("the byte-level tokenizer declares Llama's class: PreTrainedTokenizerFast is written instead")


def _origin(source: dict[str, Any]) -> str:
    return str(source.get("path") or source.get("package") or source["repo"])


def _check_and_write_manifest(name: str, source: dict[str, Any], partial: Path, facts: dict[str, str]) -> None:
    """Check that configuration, tokenizer and weights are complete, then write the manifest."""
    origin = _origin(source)
    for kind, pattern in (("configuration", "config.json"), ("tokenizer", "tokenizer*")):
        if not list(partial.glob(pattern)):
            raise DataError(
                f"the model has no {kind}",
                where=origin,
                why=f"no file {pattern}",
                remedy=f"add the file, or name another model in models.{name} of config.yaml",
            )
    try:
        check_weights(partial)
        write_manifest(partial, model=name, source=source, **facts)
    except CheckpointError as error:
        where, why = (text.replace(str(partial), origin) for text in (error.where, error.why))
        raise DataError(
            error.what,
            where=where,
            why=why,
            remedy=f"correct the model's files, or name another model in models.{name} of config.yaml",
        ) from None
