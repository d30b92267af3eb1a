"""Callback after each complete checkpoint, set by verl's `trainer.checkpoint_callback_class`."""

from __future__ import annotations

import os
from pathlib import Path

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from tir.rl.export import export_policy


class PolicyExport(CheckpointCallback):
    """Exports the policy of a saved step. The launcher regards a step as saved when its policy has been exported."""

    def on_save(self, trainer, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Write `policies/step{N}` of the run's directory."""
        export_policy(
            Path(checkpoint_dir) / "actor" / "huggingface",
            os.environ["TIR_SOURCE_MODEL"],
            Path(os.environ["TIR_RUN_DIRECTORY"]) / "policies" / f"step{global_step}",
            self.config.actor_rollout_ref.rollout.dtype,
        )
