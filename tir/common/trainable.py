"""Which language models this workflow can train, decided from a model's `config.json` before any training.

Training packs sequences end to end, and computes probabilities from the hidden states and the output embeddings
(`tir.common.attention`, verl's fused kernels). A model whose architecture does more would be trained on wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tir.common.errors import ConfigError
from tir.common.records import read_json

_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")  # Gemma 2
_SCALES = ("logits_scaling", "logit_scale")  # Granite, Cohere
_RECURRENT = ("linear_", "mamba_", "ssm_")  # beginnings of keys: Qwen3-Next, Jamba, ...
_ATTENTION = {"full_attention", "sliding_attention", "attention"}


def check_trainable(model: str | Path, where: str, longest: int = 0) -> None:
    """Check that a model can be trained.

    Args:
        model: its directory; without a `config.json` nothing is checked.
        where: what the error names.
        longest: length in tokens of the longest training sequence.

    Raises:
        ConfigError: the model has softcaps, scaled logits, layers other than attention, a part for images, or an
            attention window shorter than `longest`.
    """
    path = Path(model, "config.json")
    reason = _reason(read_json(path), longest) if path.is_file() else ""
    if reason:
        raise ConfigError(
            "this model cannot be trained here",
            where=where,
            why=reason,
            remedy="models: {base: {kind: hub, repo: Qwen/Qwen2.5-7B-Instruct}}  # or another model of docs/models.md",
        )


def _reason(config: Mapping[str, Any], longest: int) -> str:
    """Why a model with this configuration cannot be trained; empty if it can."""
    if "text_config" in config and "hidden_size" not in config:
        return "it is not a model of text alone (text_config)"
    for key in _CAPS:
        if config.get(key):
            return f"it caps its logits ({key}: {config[key]})"
    for key in _SCALES:
        if config.get(key) not in (None, 1):
            return f"it scales its logits ({key}: {config[key]})"
    layers = {*(config.get("layer_types") or ()), *(config.get("layers_block_type") or ())} - _ATTENTION
    layers |= {key for key, value in config.items() if key.startswith(_RECURRENT) and value}
    if layers:
        return f"some layers are not attention ({', '.join(sorted(layers))})"
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window and window < longest:
        return f"its attention window of {window} tokens is shorter than a sequence of {longest} tokens"
    return ""
