"""Registers this project's classes with verl, which imports it as `actor_rollout_ref.model.external_lib`."""

from __future__ import annotations

from verl.utils.device import get_device_name
from verl.workers.rollout.base import _ROLLOUT_REGISTRY

import tir.common.attention  # noqa: F401

# The registry holds dotted names, so processes that do not use this class do not import it.
_ROLLOUT_REGISTRY[("vllm", "async")] = "tir.rl.weights.ServerAdapter"

if get_device_name() == "cpu":
    import tir.rl.cpu.training  # noqa: F401
