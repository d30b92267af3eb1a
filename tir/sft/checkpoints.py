"""Find complete checkpoints, and export one as a model directory.

A run must not resume from a checkpoint that is incomplete because a process was killed. The first process of a run
writes `trainer_state.json` last, but the others may still be writing. A checkpoint is complete if this file can be
parsed and has the checkpoint's step, every weights file has the length that its header gives, every other file of
torch (a zip archive) has its end, and each process has written its state of random numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError
from tir.common.files import link_or_copy, new_directory
from tir.common.model_files import weights_fault, write_manifest

_NAME = re.compile(r"checkpoint-(\d+)")
_MODEL_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = (
    "tokenizer*",  # tokenizer.json, tokenizer_config.json; tokenizer.model of SentencePiece
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def is_complete(checkpoint: Path, processes: int = 1) -> bool:
    """Whether a checkpoint directory was written completely by a run with this number of processes."""
    match = _NAME.fullmatch(checkpoint.name)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = list(checkpoint.glob("*.safetensors"))
    archives = [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth")]
    states = {path.name for path in archives}
    return bool(
        match
        and weights
        and state.get("global_step") == int(match[1])
        and not any(map(weights_fault, weights))
        and all(map(zipfile.is_zipfile, archives))
        and (processes == 1 or all(f"rng_state_{rank}.pth" in states for rank in range(processes)))
    )


def complete_checkpoints(output: Path, processes: int = 1) -> dict[int, Path]:
    """Complete checkpoints in a Trainer's output directory by step, ascending. Deletes incomplete ones."""
    found = {}
    for path in output.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and is_complete(path, processes):
            found[int(match[1])] = path
        elif match:
            shutil.rmtree(path)
    return dict(sorted(found.items()))


def prune(output: Path, keep: Collection[int], newest: int) -> None:
    """Delete the checkpoints before step `newest`, except those of the steps `keep`."""
    for path in output.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) < newest and int(match[1]) not in keep:
            shutil.rmtree(path)


def export_checkpoint(checkpoint: Path, base: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Export a checkpoint as a model directory: weights and config of the checkpoint, tokenizer of the base model.

    The tokenizer is copied from the base model, because saving it again can change its class.

    Args:
        checkpoint: a complete checkpoint.
        base: directory of the base model.
        target: directory to write; replaced if it exists.
        manifest: fields of the manifest besides the sha256 of the weights.

    Raises:
        CheckpointError: the checkpoint has no weights or no config.json.
    """
    with new_directory(target) as scratch:
        for source, patterns in ((checkpoint, _MODEL_FILES), (base, _TOKENIZER_FILES)):
            for path in sorted(path for pattern in patterns for path in source.glob(pattern)):
                link_or_copy(path, scratch / path.name)
                (scratch / path.name).chmod(0o644)  # safetensors creates files that only their owner can read
        if not any(scratch.glob("*.safetensors")) or not (scratch / "config.json").exists():
            raise CheckpointError(
                "the checkpoint has no weights or no config.json",
                where=str(checkpoint),
                why="its files are " + ", ".join(sorted(path.name for path in checkpoint.iterdir())),
                remedy=f"rm -r {checkpoint}  # then run again; training resumes from the previous checkpoint",
            )
        write_manifest(scratch, **manifest)
