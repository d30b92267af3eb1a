"""LLaMA-Factory's Trainer of DPO, as `tir.sft.base_trainer` changes it."""

from __future__ import annotations

from typing import Any

from llamafactory.train.dpo.trainer import CustomDPOTrainer

from tir.sft.base_trainer import BaseTrainer


class Trainer(BaseTrainer, CustomDPOTrainer):
    """Rewards, margins and accuracies are also means over the steps between two logs."""

    def running_loss(self) -> dict[str, Any]:
        return super().running_loss() | {"metrics": self._stored_metrics["train"]}

    def resume_loss(self, running: dict[str, Any]) -> None:
        super().resume_loss(running)
        self._stored_metrics["train"].update(running["metrics"])
