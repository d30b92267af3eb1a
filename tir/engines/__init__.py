"""Generation engines behind one interface: vLLM for many prompts, transformers for small jobs."""

from __future__ import annotations

from pathlib import Path

from tir.engines.base import Completion, Engine
from tir.model_files import check_weights

__all__ = ["Completion", "Engine", "make_engine"]


def make_engine(kind: str, model: str | Path, **options) -> Engine:
    """Build the engine named `vllm` or `transformers`; engines are imported only when asked for.

    Raises `CheckpointError` if the model's weights are missing or cut short.
    """
    check_weights(model)
    if kind == "vllm":
        from tir.engines.vllm import VllmEngine

        return VllmEngine(model, **options)
    from tir.engines.transformers import TransformersEngine

    return TransformersEngine(model, **options)
