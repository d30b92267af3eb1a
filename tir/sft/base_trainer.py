"""What the Trainers of fine-tuning and of DPO share: trackers in the background, and logs that an interruption does not
change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from tir.common.records import read_json, write_json
from tir.sft.tracking import in_background


class _Resume(TrainerCallback):
    """Restores the running loss, after the Trainer has set it to zero at the beginning of training."""

    def __init__(self, trainer: BaseTrainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **_kwargs):
        file = self._trainer.running_loss_file()
        if state.global_step and file.exists():
            self._trainer.resume_loss(read_json(file))


class BaseTrainer(Trainer):
    """A base to put before one of LLaMA-Factory's Trainers.

    A checkpoint also keeps what the next logged means are made of. Without it, a run that resumes between two logged
    steps would log other means than an undisturbed one.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks = in_background(self.callback_handler.callbacks)
        self.add_callback(_Resume(self))

    def running_loss_file(self) -> Path:
        """File of this process in the checkpoint of the present step."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        return folder / f"running_loss_{self.args.process_index}.json"

    def running_loss(self) -> dict[str, Any]:
        """What the next logged values are means of, as JSON."""
        return {
            "sum": self._tr_loss.item(),
            "logged": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
        }

    def resume_loss(self, running: dict[str, Any]) -> None:
        """Go on with the means that were begun before the checkpoint from which this run resumes."""
        self._tr_loss.fill_(running["sum"])
        self._total_loss_scalar, self._globalstep_last_logged = running["logged"], running["last_logged"]

    def store_flos(self) -> None:
        """Add this run's floating-point operations since the last call to the state, those of all processes.

        The Trainer adds them in single precision, so that the total would depend on the steps of the checkpoints.
        """
        operations = torch.tensor(self.current_flos, dtype=torch.float64, device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(operations)
        self.state.total_flos += operations.item()
        self.current_flos = 0

    def _save_checkpoint(self, model, trial) -> None:
        # First, because a checkpoint is complete when its last file is there.
        write_json(self.running_loss_file(), self.running_loss())
        super()._save_checkpoint(model, trial)
