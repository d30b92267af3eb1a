"""The Trainer's callbacks for experiment trackers (`report_to`), each in a thread of its own."""

from __future__ import annotations

import copy
import json
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from tir.common.tracking import TRACKERS, Background, described

_CLASSES = {INTEGRATION_TO_CALLBACK[name]: name for name in TRACKERS}


class InBackground(TrainerCallback):
    """Passes the begin, the logs and the end of a training to a tracker's callback. Checkpoints are not sent."""

    def __init__(self, callback: TrainerCallback, name: str):
        self._name, self._tracker = name, Background(name, lambda: callback)

    def on_train_begin(self, args, state, control, model=None, **_kwargs):
        state = copy.copy(state)
        self._tracker.put(lambda callback: callback.on_train_begin(args, state, control, model=model))
        if state.is_world_process_zero:
            self._tracker.put(lambda callback: _describe(callback, self._name, described().get("config", {})))

    def on_log(self, args, state, control, logs=None, **_kwargs):
        state, logs = copy.copy(state), dict(logs or {})
        self._tracker.put(lambda callback: callback.on_log(args, state, control, logs=logs))

    def on_train_end(self, args, state, control, **_kwargs):
        state = copy.copy(state)
        self._tracker.close(lambda callback: _end(callback, self._name, args, state, control))


def _describe(callback: Any, name: str, config: dict[str, Any]) -> None:
    if name == "tensorboard":
        callback.tb_writer.add_text("configuration", f"```json\n{json.dumps(config, indent=1)}\n```")
    elif name == "wandb":
        callback._wandb.config.update({"tir": config}, allow_val_change=True)
    else:
        callback._ml_flow.set_tag("tir", json.dumps(config)[:5000])


def _end(callback: Any, name: str, args, state, control) -> None:
    callback.on_train_end(args, state, control)
    if name == "wandb":
        callback._wandb.finish()


def in_background(callbacks: list[TrainerCallback]) -> list[TrainerCallback]:
    """The callbacks of a Trainer, with those of trackers replaced."""
    return [InBackground(each, _CLASSES[type(each)]) if type(each) in _CLASSES else each for each in callbacks]
