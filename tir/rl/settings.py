"""Settings of one RL run, as plain values; the fields follow `tir.config.Rl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tir.errors import ConfigError


@dataclass(frozen=True)
class RlSettings:
    """What is trained and how. Arms of one study differ in `estimator` and `coefficients` only.

    Attributes:
        estimator, coefficients: the arm; `aspo` takes the fields of `aspo.ASPOConfig`, `grpo` none.
        seed: data order, sampling and mini-batches.
        device: cuda, or cpu (see `tir.rl.cpu_platform`).
        rows: rows used from the head of the training file.
        steps: optimiser steps executed (one per batch if mini_batch_prompts equals batch_prompts).
        batch_prompts, group_size: prompts per step, trajectories per prompt.
        mini_batch_prompts: prompts per optimiser update.
        learning_rate, kl_coef, entropy_coef, clip_ratio, temperature: of the loss and of sampling.
        track_kl: log the divergence from the starting policy even with kl_coef 0; costs a reference model.
        old_log_probs: `recompute` by the trainer before the update, or take those of the `rollout` engine, which saves a
            forward pass and makes the engine's policy the proximal one. With one update per batch the recomputed ratio
            is 1 by construction; the other one also corrects what the two engines disagree on.
        max_prompt_tokens, max_response_tokens: longest prompt; longest response, tool tokens included.
        validate_every, save_every: in steps; a validation also stands before training, and steps is divisible by both.
        gpus: data-parallel processes (1 on a CPU).
        precision: bf16 or fp32, of computation; master weights are fp32.
        micro_batch_tokens: tokens per forward pass and device, padding aside; 0 takes twice the longest sequence.
        reward: a `tir.config.Reward`. tools: a `tir.config.Tools`.
        engine: further options of the rollout engine, by vLLM's names, except the named ones of `overrides`.
    """

    estimator: Literal["grpo", "aspo"] = "grpo"
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    device: Literal["cuda", "cpu"] = "cuda"
    rows: int = 1000
    steps: int = 30
    batch_prompts: int = 32
    mini_batch_prompts: int = 32
    group_size: int = 4
    learning_rate: float = 1e-6
    kl_coef: float = 0.0
    track_kl: bool = False
    entropy_coef: float = 0.001
    clip_ratio: float = 0.2
    temperature: float = 1.0
    old_log_probs: Literal["recompute", "rollout"] = "recompute"
    max_prompt_tokens: int = 1536
    max_response_tokens: int = 4096
    validate_every: int = 15
    save_every: int = 15
    gpus: int = 8
    precision: Literal["bf16", "fp32"] = "bf16"
    micro_batch_tokens: int = 0
    reward: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_tokens(self) -> int:
        """Longest sequence in tokens."""
        return self.max_prompt_tokens + self.max_response_tokens


def rl_settings(values: Mapping[str, Any], **more: Any) -> RlSettings:
    """Settings from a rule's parameters; `seeds` (the study's list) is not a run's. Raises `ConfigError` on an unknown key."""
    known = {item.name for item in fields(RlSettings)}
    given = {**{key: value for key, value in values.items() if key != "seeds"}, **more}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError("unknown key", where=f"rl.{unknown[0]}", why="no such setting of an RL run",
                          remedy=f"one of: {', '.join(sorted(known))}")
    settings = RlSettings(**given)
    if settings.steps % settings.save_every:
        raise ConfigError("the last step would not be kept", where="rl.save_every",
                          why=f"{settings.save_every} does not divide {settings.steps} steps",
                          remedy=f"save_every: {settings.steps}")
    if settings.batch_prompts > settings.rows:
        raise ConfigError("no batch fits", where="rl.batch_prompts",
                          why=f"{settings.batch_prompts} prompts per step, but only {settings.rows} rows")
    return settings
