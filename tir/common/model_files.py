"""Model directories: manifests, chat templates, and a check that the weights are complete before a model is loaded."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError, DataError
from tir.common.records import file_digest, read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(directory: str | Path, **facts: Any) -> None:
    """Write `manifest.json` of a model directory, with `facts` and the sha256 of every weights file.

    Call this after all other files are written. Raises `CheckpointError` if there are no weights.
    """
    directory = Path(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            "no weights", where=str(directory), why="it contains no *.safetensors", remedy=_remedy(directory)
        )
    write_json(directory / MANIFEST, {**facts, "sha256": {file.name: file_digest(file) for file in weights}})


def read_model_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a model directory; raises `CheckpointError` if it is missing or lists a missing weights file."""
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.exists():
        raise CheckpointError(
            "not a finished model", where=str(directory), why="it has no manifest.json", remedy=_remedy(directory)
        )
    manifest = read_json(path)
    digests = manifest.get("sha256") if isinstance(manifest, dict) else None
    for name in digests if isinstance(digests, dict) else ():
        if not (directory / name).exists():
            raise CheckpointError(
                "weights missing", where=str(directory / name), why="the manifest lists them", remedy=_remedy(directory)
            )
    return manifest


def count_parameters(directory: str | Path) -> int:
    """Number of parameters of a model, from the headers of its weights files, without loading a library.

    Raises `CheckpointError` if the manifest or a weights file is missing or incomplete.
    """
    try:
        total = 0
        for name in read_model_manifest(directory)["sha256"]:
            with open(Path(directory) / name, "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
        return total
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why, remedy = f"{type(error).__name__}: {error}", _remedy(Path(directory))
        raise CheckpointError("unreadable weights or manifest", where=str(directory), why=why, remedy=remedy) from None


def has_chat_template(directory: str | Path) -> bool:
    """Whether the tokenizer of a model directory has a chat template, read without loading the tokenizer."""
    config = Path(directory) / "tokenizer_config.json"
    return (Path(directory) / "chat_template.jinja").exists() or bool(
        config.exists() and read_json(config).get("chat_template")
    )


def no_chat_template(where: str) -> DataError:
    """The error for a model without a chat template; its remedy contains a template that works with every tokenizer."""
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return DataError(
        "the model has no chat template",
        where=where,
        why="tokenizer_config.json has no key chat_template, and there is no file chat_template.jinja",
        remedy="use the chat variant of the model, or copy the model (kind: local) and add a file chat_template.jinja, "
        f"either that of the chat variant or\n{template}",
    )


def packaged_model(package: str) -> Path | None:
    """Directory of the model in an installed package; None if the package is not installed.

    Raises `CheckpointError` unless the package contains exactly one model.
    """
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    directories = [
        path.parent
        for location in spec.submodule_search_locations
        for path in sorted(Path(location).rglob("config.json"))
        if (path.parent / "model.safetensors").exists()
    ]
    if len(directories) != 1:
        raise CheckpointError(
            "package does not contain exactly one model",
            where=package,
            why=f"{len(directories)} of its directories have config.json and model.safetensors",
            remedy="use a model directory or a hub id instead of the package",
        )
    return directories[0]


def largest_tensor(directory: str | Path) -> int:
    """Number of values of the largest tensor in the weights of a model directory; 0 without weights."""
    from safetensors import safe_open

    sizes = [0]
    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            sizes += [math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()]  # noqa: SIM118
    return max(sizes)


def weights_fault(file: Path) -> str | None:
    """The reason why a safetensors file cannot be read, e.g. that it is truncated; None if it can."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return None
    except (SafetensorError, OSError) as error:
        return str(error)


def check_weights(directory: str | Path) -> None:
    """Raise `CheckpointError` unless all weights files of a model directory exist and are complete.

    Checks headers and lengths, not checksums.
    """
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    names = read_json(index)["weight_map"].values() if index.exists() else ()
    for name in sorted(set(names)):
        if not (directory / name).exists():
            raise CheckpointError(
                "weights missing",
                where=str(directory / name),
                why=f"{index.name} lists them",
                remedy=_remedy(directory),
            )
    files = sorted(directory.glob("*.safetensors"))
    if not files and not list(directory.glob("*.bin")):
        raise CheckpointError(
            "no weights", where=str(directory), why="it contains no *.safetensors", remedy=_remedy(directory)
        )
    for file in files:
        if fault := weights_fault(file):
            raise CheckpointError("unreadable weights", where=str(file), why=fault, remedy=_remedy(directory))


def _remedy(directory: Path) -> str:
    return f"rm -r {directory}  # then run the same command again: it makes or fetches the model again"
