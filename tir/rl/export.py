"""The policy of a saved step as an ordinary Hugging Face directory, written while verl's checkpoint is still there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tir.errors import CheckpointError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "manifest.json")


def export_policy(saved: str | os.PathLike, source: str | os.PathLike, output: str | os.PathLike, dtype: str) -> None:
    """Write a policy: weights of a checkpoint, everything else from the model it started from.

    verl saves configuration and tokenizer anew, by whatever class loaded them; copying the starting model's files keeps
    prompts and decoding the same in every arm. Weights are master weights in fp32; they are cast to `dtype`, in which both
    engines compute. The directory appears complete or not at all.

    Args:
        saved: verl's `huggingface` directory of a step.
        source: Hugging Face directory of the starting policy.
        output: directory to write; replaced if it exists.
        dtype: `bfloat16`, `float16` or `float32`.

    Raises `CheckpointError` if there are no weights.
    """
    import torch
    from safetensors.torch import load_file, save_file

    saved, source, output = Path(saved), Path(source), Path(output)
    shards = sorted(saved.glob("*.safetensors"))
    if not shards:
        raise CheckpointError("checkpoint has no weights", where=str(saved))
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_WEIGHTS))
    for shard in shards:
        weights = {name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
                   for name, tensor in load_file(shard).items()}
        save_file(weights, partial / shard.name, metadata={"format": "pt"})
    index = saved / "model.safetensors.index.json"
    if index.exists():
        shutil.copy(index, partial)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
