"""What verl imports in each of its processes, by `actor_rollout_ref.model.external_lib`: our entries in its registries."""

from __future__ import annotations

from verl.utils.device import get_device_name
from verl.workers.rollout.base import _ROLLOUT_REGISTRY

# The registry holds dotted names, so nothing heavy is imported in processes that never look it up.
_ROLLOUT_REGISTRY[("vllm", "async")] = "tir.rl.weights.ServerAdapter"

if get_device_name() == "cpu":
    import tir.rl.cpu_training  # noqa: F401
