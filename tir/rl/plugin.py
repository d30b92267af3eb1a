"""Registers this project's classes with verl, which imports it as `actor_rollout_ref.model.external_lib`."""

from __future__ import annotations

from verl.utils import fsdp_utils
from verl.utils.device import get_device_name
from verl.workers.rollout.base import _ROLLOUT_REGISTRY

import tir.common.attention  # noqa: F401

# The registry holds dotted names, so processes that do not use this class do not import it.
_ROLLOUT_REGISTRY[("vllm", "async")] = "tir.rl.weights.ServerAdapter"


def _layers_without_head(model, names: list[str]) -> list:
    """Modules that FSDP2 shards one by one; the output embeddings stay with the model's other parameters.

    verl shards untied ones (of Qwen2.5-7B, for example) as a module of their own. Its fused kernels read their weight
    without calling the module, so it would not be gathered: "aten.mm.default got mixed torch.Tensor and DTensor".
    """
    return [module for module in _layers(model, names) if module is not getattr(model, "lm_head", None)]


_layers = fsdp_utils._select_fsdp2_wrap_targets
fsdp_utils._select_fsdp2_wrap_targets = _layers_without_head

if get_device_name() == "cpu":
    import tir.rl.cpu.training  # noqa: F401
