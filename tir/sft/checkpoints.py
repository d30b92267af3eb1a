"""Checkpoints: which are whole, and how one becomes a model directory.

A checkpoint that was being written when its process died must never be taken up. The Trainer writes `trainer_state.json`
last, so a checkpoint counts as whole if that file parses and names its own step, and every weights file is as long as
its header says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tir.errors import CheckpointError
from tir.model_files import weights_fault, write_manifest

_NAME = re.compile(r"checkpoint-(\d+)")
_MODEL_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
                    "merges.txt", "chat_template.jinja")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint directory was written to its end."""
    match = _NAME.fullmatch(checkpoint.name)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = list(checkpoint.glob("*.safetensors"))
    return bool(match and weights and state.get("global_step") == int(match[1])
                and not any(map(weights_fault, weights)))


def whole_checkpoints(output: Path) -> dict[int, Path]:
    """Whole checkpoints under a Trainer's output directory, by step, ascending; the others are deleted."""
    found = {}
    for path in output.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and is_whole(path):
            found[int(match[1])] = path
        elif match:
            shutil.rmtree(path)
    return dict(sorted(found.items()))


def _take(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, else copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def export_checkpoint(checkpoint: Path, base: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Make a model directory of a checkpoint: its weights and config, the base's tokenizer, the manifest last.

    The tokenizer comes from the base because it was not trained, and writing it anew can change its class.

    Args:
        checkpoint: a whole checkpoint.
        base: the model training started from.
        target: directory to write; what it held before is replaced.
        manifest: what to record beside the digest of the weights.
    """
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for source, patterns in ((checkpoint, _MODEL_FILES), (base, _TOKENIZER_FILES)):
        for path in sorted(path for pattern in patterns for path in source.glob(pattern)):
            _take(path, scratch / path.name)
            (scratch / path.name).chmod(0o644)  # safetensors writes for its owner alone
    weights = sorted(scratch.glob("*.safetensors"))
    if not weights or not (scratch / "config.json").exists():
        raise CheckpointError("checkpoint without weights or config", where=str(checkpoint),
                              why=", ".join(sorted(path.name for path in checkpoint.iterdir())),
                              remedy=f"rm -r {checkpoint}  # then run again; training goes on from the one before")
    write_manifest(scratch, **manifest)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
