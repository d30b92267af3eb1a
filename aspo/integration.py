"""ASPO in verl without editing verl.

Importing this module registers the trainer mode `aspo`: verl's synchronous PPO trainer with the shaped advantage. A run
needs one environment variable, one override, and the coefficients:

    VERL_USE_EXTERNAL_MODULES=aspo.integration python -m verl.trainer.main_ppo \\
        trainer.v1.trainer_mode=aspo +algorithm.aspo.lam=0.5 +algorithm.aspo.alpha=1.0 ...

verl's registry of advantage estimators does not suffice: an estimator receives rewards, mask and group index, but
neither the response tokens nor the task. The trainer can read both from its transfer queue.

Each row of the data set must name its task in the column `ability` ("math", or anything else), as in
Multi-Tool-RL-10K.
"""

from __future__ import annotations

from dataclasses import fields

import torch
import transfer_queue
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from aspo.advantage import ASPOConfig, compute_aspo_advantage, placebo_order
from aspo.detection import detect_structural_features
from aspo.diagnostics import shaping_diagnostics

_MATH_ABILITIES = frozenset({"math"})


@register_trainer("aspo")
class ASPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer with the shaped advantage; all other steps are unchanged."""

    def _build_replay_buffer(self):
        # verl selects the buffer by the mode's name; `aspo` trains synchronously and needs the buffer of `sync`.
        self.trainer_mode = "sync"
        return super()._build_replay_buffer()

    def _compute_advantage(self, batch, metrics: dict):
        """Let verl compute GRPO's advantage, replace it by the shaped one, and add the diagnostics to `metrics`."""
        batch = super()._compute_advantage(batch, metrics=metrics)
        config = aspo_config(self.config.algorithm)
        data = transfer_queue.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["uid", "responses", "response_mask", "rm_scores", "ability"],
        )
        lengths = data["response_mask"].offsets().diff().tolist()
        responses, mask, rewards = (
            data[name].to_padded_tensor(0) for name in ("responses", "response_mask", "rm_scores")
        )
        is_math = torch.tensor([value in _MATH_ABILITIES for value in data.get("ability").tolist()])
        index = data.get("uid").tolist()
        features = detect_structural_features(responses, mask, self.tokenizer)
        real = torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])  # verl fills up a short batch
        exchange = order = None
        if config.permuted:
            exchange = placebo_order(int(real.sum()), self.config.data.get("seed") or 0, self.global_steps)
            order = torch.arange(len(real))
            order[real] = order[real][exchange]
        advantages, _ = compute_aspo_advantage(rewards, mask, index, features, is_math, config, order=order)
        labels = [label for label, keep in zip(index, real.tolist(), strict=True) if keep]
        scores = rewards.sum(-1)[real]
        metrics.update(
            shaping_diagnostics(scores, labels, features.select(real), is_math[real], config, order=exchange)
        )
        nested = torch.nested.as_nested_tensor(
            [row[:n] for row, n in zip(advantages, lengths, strict=True)], layout=torch.jagged
        )
        fields = TensorDict({"advantages": nested, "returns": nested.clone()}, batch_size=len(lengths))
        return transfer_queue.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def aspo_config(algorithm) -> ASPOConfig:
    """The coefficients under `algorithm.aspo` of a verl configuration.

    `norm_by_std` defaults to verl's `algorithm.norm_adv_by_std_in_grpo`. Raises `ValueError` for an unknown name or a
    value out of range.
    """
    values = OmegaConf.to_container(algorithm.aspo, resolve=True) if "aspo" in algorithm else {}
    known = [field.name for field in fields(ASPOConfig)]
    for name in values:
        if name not in known:
            raise ValueError(f"algorithm.aspo.{name}: unknown coefficient; the known ones are {', '.join(known)}")
    values.setdefault("norm_by_std", bool(algorithm.get("norm_adv_by_std_in_grpo", True)))
    return ASPOConfig(**values)
