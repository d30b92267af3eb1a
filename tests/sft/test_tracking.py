"""The Trainer's own callbacks for trackers in the background, with a real Trainer of transformers."""

import json

import pytest
import torch
import wandb
from support.event_files import events, scalars
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback, WandbCallback

from tir.common import tracking as common
from tir.common.tracking import prepare
from tir.config.site import Tracking
from tir.sft.tracking import InBackground, in_background


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x=None, **_):
        return {"loss": ((self.weight * x - 1) ** 2).mean()}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train ten steps with the given trackers; returns the Trainer's own log."""

    def run(*trackers, spoil=lambda callback: None):
        monkeypatch.setattr(common, "CLOSE_SECONDS", 120.0)  # the client of wandb starts slowly on a busy machine
        given = Tracking(trackers=list(trackers), directory=str(tmp_path / "tracking")).model_dump()
        tracked = prepare(given, "sft", {"sft": {"epochs": 3}, "code": "scripts.train_sft 0f3a"})
        for name, value in tracked.variables.items():
            monkeypatch.setenv(name, value)
        arguments = TrainingArguments(
            str(tmp_path / "output"),
            report_to=list(tracked.trackers),
            run_name=tracked.name,
            max_steps=10,
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(Line(), arguments, train_dataset=[{"x": torch.ones(1)}] * 80)
        for each in trainer.callback_handler.callbacks:
            spoil(each)
        trainer.callback_handler.callbacks = in_background(trainer.callback_handler.callbacks)
        trainer.train()
        return trainer.state.log_history

    yield run
    wandb.teardown()  # it keeps the folder of its first run


def test_tensorboard_has_the_losses_of_the_trainers_log(train, tmp_path):
    logged = [(row["step"], row["loss"]) for row in train("tensorboard") if "loss" in row]
    assert len(logged) == 10
    folder = tmp_path / "tracking/tensorboard/sft"
    assert scalars(folder, "train/loss") == [(step, pytest.approx(loss)) for step, loss in logged]
    (text,) = events(folder).Tensors("configuration/text_summary")
    assert "scripts.train_sft 0f3a" in text.tensor_proto.string_val[0].decode()


def test_weights_and_biases_writes_offline(train, tmp_path):
    train("wandb")
    (file,) = (tmp_path / "tracking/wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content and b"scripts.train_sft 0f3a" in content


def test_a_tracker_that_fails_does_not_end_the_training(train, capsys):
    def spoil(callback):
        if isinstance(callback, TensorBoardCallback):
            callback.on_log = lambda *_, **__: json.loads("{")

    assert len(train("tensorboard", spoil=spoil)) == 11
    assert "tensorboard failed, the run goes on without it: JSONDecodeError" in capsys.readouterr().err


def test_only_callbacks_of_trackers_are_replaced():
    other = TrainerCallback()
    found = in_background([other, WandbCallback()])
    assert found[0] is other and isinstance(found[1], InBackground)
