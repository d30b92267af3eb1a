"""Merge a LoRA adapter into the weights of its base: W + scale * B A for each adapted layer, in the base's data type.

The files of the base keep their names, tensors and data types, so the merged policy is read like every other model. The
product is computed in fp32 and then rounded, as the base itself was. A weight in bfloat16 does not change if its update
is below 0.2 to 0.4 % of it, so the merge measures how much of the update is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tir.common.errors import CheckpointError
from tir.common.model_files import MANIFEST
from tir.common.records import read_json

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def merge_adapter(adapter: Path, base: Path, output: Path) -> float:
    """Write the model directory `output`: the base's files, with the adapter merged into its weights; no manifest.

    Returns the share of the update U that is left in the rounded one R: <U, R> / <U, U>, 1 without rounding.

    Args:
        adapter: directory with PEFT's `adapter_config.json` and `adapter_model.safetensors`.
        base: model directory.
        output: directory to write; replaced if it exists.

    Raises `CheckpointError` if the adapter has layers that the base has not, or has them with other shapes.
    """
    from safetensors.torch import load_file, save_file

    found = read_json(adapter / "adapter_config.json")
    scale, left, whole = found["lora_alpha"] / found["r"], 0.0, 0.0
    updates = _updates(load_file(adapter / "adapter_model.safetensors"))
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(base, output, ignore=shutil.ignore_patterns(MANIFEST, "*.safetensors"))
    for file in sorted(base.glob("*.safetensors")):
        weights = load_file(file)
        for name in weights.keys() & updates.keys():
            down, up = updates.pop(name)
            if (up.shape[0], down.shape[1]) != tuple(weights[name].shape) or up.shape[1] != down.shape[0]:
                raise _misfit(
                    adapter, base, f"{name} is {_size(weights[name])}, the adapter {_size(up)} x {_size(down)}"
                )
            before, update = weights[name].float(), scale * (up.float() @ down.float())
            weights[name] = (before + update).to(weights[name].dtype)
            left += float((update * (weights[name].float() - before)).sum())
            whole += float((update * update).sum())
        save_file(weights, output / file.name, metadata={"format": "pt"})
    if updates:
        raise _misfit(
            adapter, base, f"the base has no {sorted(updates)[0]}, and {len(updates)} layers in all are missing"
        )
    return left / whole if whole else 1.0


def _updates(tensors: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """A and B of each adapted layer, by the name of its weights in the base."""
    layers = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    return {f"{layer.removeprefix(_PREFIX)}.weight": (tensors[layer + _A], tensors[layer + _B]) for layer in layers}


def _size(tensor) -> str:
    return str(tuple(tensor.shape))


def _misfit(adapter: Path, base: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "the adapter does not fit its base",
        where=str(adapter),
        why=f"{why} (base: {base})",
        remedy=f"rm -r {adapter.parents[1]}  # then run the same command again: it trains an adapter of this base",
    )
