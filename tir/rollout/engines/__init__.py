"""Generation engines with one interface (`base`): vLLM for many prompts, transformers for small jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tir.common.imports import without_collection
from tir.common.model_files import check_weights
from tir.rollout.engines.base import Completion, Engine

if TYPE_CHECKING:
    from tir.config.evaluation import EngineConfig

__all__ = ["Completion", "Engine", "make_engine"]


def make_engine(settings: EngineConfig, model: str | Path, *, device: str) -> Engine:
    """Build the configured engine. The engine's library is imported here, not with the package.

    Raises `CheckpointError` if the model's weights are missing or incomplete.
    """
    check_weights(model)
    with without_collection():
        if settings.kind == "vllm":
            from tir.rollout.engines.vllm import VllmEngine

            return VllmEngine(model, device=device, dtype=settings.dtype, batch_invariant=settings.batch_invariant)
        from tir.rollout.engines.transformers import TransformersEngine

        return TransformersEngine(model, device=device, dtype=settings.dtype, max_batch=settings.max_batch)
