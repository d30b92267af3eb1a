"""LLaMA-Factory's Trainer with the batches of `tir.sft.batches`, rows laid end to end, and an evaluation loss that does
not depend on the number of GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch.utils.data import DataLoader, Dataset
from transformers import DataCollatorWithFlattening
from transformers.trainer_utils import EvalLoopOutput

from tir.common import attention
from tir.sft.base_trainer import BaseTrainer
from tir.sft.batches import Batches, row_lengths
from tir.sft.render import IGNORE

EVALUATION_ROWS = 4  # rows whose tokens are averaged; the evaluation loss is the mean over such groups, as in the paper


class Rows(Dataset):
    """Training rows by number; ~row (a negative number) is the row without loss."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row >= 0:
            return self._rows[row]
        found = self._rows[~row]
        return found | {"labels": [IGNORE] * len(found["labels"])}


class Groups(Dataset):
    """Consecutive held-out rows in lists of `EVALUATION_ROWS`."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self) -> int:
        return -(-len(self._rows) // EVALUATION_ROWS)

    def __getitem__(self, group: int) -> list[dict[str, Any]]:
        last = min(len(self._rows), (group + 1) * EVALUATION_ROWS)
        return [self._rows[row] for row in range(group * EVALUATION_ROWS, last)]


class Trainer(BaseTrainer, CustomSeq2SeqTrainer):
    """The Trainer of a run.

    Attributes:
        schedule: set before the Trainer is made; `batch_rows`, `seed` and `passes` (see `Batches`), `packed` (whether
            rows are laid end to end; else they are padded), `liger` (whether its kernels are used).
    """

    schedule: dict[str, Any] = {}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._collate_padded, self._collate_packed = self.data_collator, DataCollatorWithFlattening()
        self.data_collator = self._collate
        if self.eval_dataset is not None:
            self.eval_dataset = Groups(self.eval_dataset)
        if self.schedule["packed"]:
            self.model.set_attn_implementation(attention.NAME)

    def _collate(self, features: Sequence) -> dict[str, torch.Tensor]:
        rows = features[0] if isinstance(features[0], list) else features  # a batch of the evaluation is one group
        return self._collate_packed(rows) if self.schedule["packed"] else self._collate_padded(rows)

    def get_train_dataloader(self) -> DataLoader:
        """This process's batches; they need no further division by accelerate."""
        batches = Batches(
            row_lengths(self.train_dataset),
            batch_rows=self.schedule["batch_rows"],
            seed=self.schedule["seed"],
            passes=self.schedule["passes"],
            rank=self.args.process_index,
            processes=self.args.world_size,
            step=lambda: self.state.global_step,
        )
        return DataLoader(
            Rows(self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory and not self.args.use_cpu,
        )

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """The mean over all groups of the loss of a group, which is the mean over its tokens.

        The Trainer would average over the tokens of the groups that run at the same time, and count some groups twice.
        """
        self.callback_handler.eval_dataloader = dataloader
        groups, processes = dataloader.dataset, self.args.world_size
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # sum of losses, number of groups
        options = {"skip_logits": True} if self.schedule["liger"] else {}  # the logits of a group would take 25 GB
        self.model.eval()
        for first in range(0, len(groups), processes):
            number = first + self.args.process_index
            # A process without a group computes another one, because ZeRO 3 exchanges weights in every pass.
            inputs = self._prepare_inputs(self._collate([groups[number % len(groups)]]))
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.model(**inputs, **options).loss
            if number < len(groups):
                total += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if processes > 1:
            torch.distributed.all_reduce(total)
        loss = (total[0] / total[1]).item()
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(groups))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save checkpoints only; LLaMA-Factory would save the last model once more."""
        if _internal_call:
            super().save_model(output_dir, _internal_call)
