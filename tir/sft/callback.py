"""Checkpoints within an epoch, and the end of a run when its launcher asks for it.

The launcher (`tir.sft.launcher`) is one process and gets all signals. It asks for the end by a file. The processes that
train decide together after each step, so that all of them save and end at the same step: a collective operation that
only some of them enter would hang.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import TrainerCallback

from tir.sft.checkpoints import prune

_BEAT_SECONDS = 1.0


class Checkpoints(TrainerCallback):
    """Saves within epochs, deletes checkpoints that are no longer needed, and ends a run on request.

    Args:
        stop: file whose existence asks for the end.
        alive: file that is touched after each step and each evaluated batch, for the launcher's stall limit.
        boundaries: last step of each epoch; the Trainer itself evaluates and saves there.
        within: other steps to save at.
    """

    def __init__(self, stop: Path, alive: Path, boundaries: Collection[int], within: Collection[int]):
        self._stop, self._alive = stop, alive
        self._boundaries, self._within = set(boundaries), set(within)
        self._saved: int | None = None  # step of the last checkpoint, until older ones are deleted
        self._ended, self._beat_at = False, 0.0

    def on_train_begin(self, args, state, control, **_kwargs):
        self._beat(state)

    def on_prediction_step(self, args, state, control, **_kwargs):
        self._beat(state)

    def on_save(self, args, state, control, **_kwargs):
        self._saved = state.global_step
        self._beat(state)

    def on_step_end(self, args, state, control, **_kwargs):
        """Save at the steps of `within`; save and end if the launcher asks for it."""
        self._beat(state)
        if state.global_step in self._boundaries:
            return  # on_epoch_end follows, and the Trainer evaluates before it saves
        if self._asked(args.device):
            self._ended = control.should_save = control.should_training_stop = True
        elif state.global_step in self._within:
            control.should_save = True
        if self._saved is not None and state.is_world_process_zero:
            # All processes have been here since they wrote the last checkpoint, so it is complete.
            prune(Path(args.output_dir), self._boundaries, self._saved)
            self._saved = None

    def on_epoch_end(self, args, state, control, **_kwargs):
        """End after the evaluation and the checkpoint of an epoch; add neither to a run that ends within an epoch."""
        if self._ended:
            control.should_save = control.should_evaluate = False
        elif self._asked(args.device):
            control.should_training_stop = True

    def _asked(self, device: torch.device) -> bool:
        """Whether any process sees the launcher's file; all processes get the same answer."""
        asked = self._stop.exists()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            flag = torch.tensor(int(asked), device=device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        return asked

    def _beat(self, state) -> None:
        if state.is_world_process_zero and time.monotonic() - self._beat_at > _BEAT_SECONDS:
            self._beat_at = time.monotonic()
            with contextlib.suppress(OSError):
                self._alive.touch()
