"""Export the policy of a saved step as a Hugging Face directory, before verl deletes the checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tir.common.errors import CheckpointError
from tir.common.files import new_directory
from tir.common.model_files import MANIFEST

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", MANIFEST)


def export_policy(saved: str | os.PathLike, source: str | os.PathLike, output: str | os.PathLike, dtype: str) -> None:
    """Write a policy: the weights of a checkpoint, and all other files from the starting model.

    verl writes its own versions of configuration and tokenizer. The starting model's files are used instead, so that
    prompts and decoding are the same in every arm. The fp32 master weights are cast to `dtype`, in which both engines
    compute. The directory is renamed into place when it is complete.

    Args:
        saved: directory `huggingface` of the step's checkpoint.
        source: Hugging Face directory of the starting policy.
        output: directory to write; replaced if it exists.
        dtype: `bfloat16`, `float16` or `float32`.

    Raises:
        CheckpointError: the checkpoint contains no weights.
    """
    import torch
    from safetensors.torch import load_file, save_file

    saved = Path(saved)
    shards = sorted(saved.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(
            "the checkpoint has no weights",
            where=str(saved),
            why="no *.safetensors files",
            remedy="delete this step's checkpoint directory, then run again",
        )
    with new_directory(output) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
        for shard in shards:
            weights = {
                name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
                for name, tensor in load_file(shard).items()
            }
            save_file(weights, partial / shard.name, metadata={"format": "pt"})
        index = saved / "model.safetensors.index.json"
        if index.exists():
            shutil.copy(index, partial)
