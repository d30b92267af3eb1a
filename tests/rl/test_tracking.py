"""verl's own loggers in the background: their curves are those of the record, and the record needs none of them."""

import json

import pytest

pytest.importorskip("verl")

import wandb  # noqa: E402
from support.event_files import events, scalars  # noqa: E402

from tir.common import tracking as common  # noqa: E402
from tir.common.tracking import Background, prepare  # noqa: E402
from tir.config.site import Tracking  # noqa: E402
from tir.rl import tracking  # noqa: E402

CONFIG = {"arm": "aspo", "coefficients": {"alpha": 1.0, "lambda": 0.5}, "code": "scripts.train_rl 0f3a"}
STEPS = [
    {"critic/score/mean": 0.25 * step, "aspo/shift_share": 0.5, "text": "no number", "timing_s/step": 1.5}
    for step in range(4)
]


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Log four steps with the given trackers; returns the rows of verl's file."""

    def log(*trackers):
        monkeypatch.setattr(common, "CLOSE_SECONDS", 120.0)  # the client of wandb starts slowly on a busy machine
        given = Tracking(trackers=list(trackers), directory=str(tmp_path / "tracking")).model_dump()
        run = prepare(given, "aspo-step3-seed1", CONFIG)
        for name, value in run.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "verl.jsonl"))
        config = {"trainer": {"total_training_steps": 3}}
        logger = tracking.BackgroundTracking("tir", "seed1", ["file", *run.trackers], config)
        for step, data in enumerate(STEPS):
            logger.log(data=data, step=step)
        logger.finish()
        return [json.loads(line) for line in (tmp_path / "verl.jsonl").read_text().splitlines()]

    yield log
    wandb.teardown()  # it keeps the folder of its first run


def test_tensorboard_has_the_curves_of_the_record_and_the_configuration(tracked, tmp_path):
    rows = tracked("tensorboard")
    assert rows == [{"step": step, "data": data} for step, data in enumerate(STEPS)]
    found = events(folder := tmp_path / "tracking/tensorboard/aspo-step3-seed1")
    assert set(found.Tags()["scalars"]) == {"critic/score/mean", "aspo/shift_share", "timing_s/step"}
    assert scalars(folder, "critic/score/mean") == [(step, 0.25 * step) for step in range(4)]
    (text,) = found.Tensors("configuration/text_summary")
    assert '"lambda": 0.5' in text.tensor_proto.string_val[0].decode()


def test_weights_and_biases_writes_offline_without_a_key(tracked, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert len(tracked("wandb")) == 4
    wandb.teardown()  # its process writes the file's last block when it ends, as it does when a training run ends
    (file,) = (tmp_path / "tracking/wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"aspo-step3-seed1" in content and b"aspo/shift_share" in content and b"0f3a" in content
    assert not any(each.alive for each in Background.running[-1:])


def test_the_record_is_whole_although_a_tracker_fails(tracked, monkeypatch, capsys):
    def fail(name):
        raise ConnectionError(f"no {name}")

    monkeypatch.setattr(tracking, "_start", fail)
    assert len(tracked("tensorboard", "wandb")) == 4
    text = capsys.readouterr().err
    assert "tensorboard failed, the run goes on without it: ConnectionError" in text and "wandb failed" in text


def test_verls_trainer_uses_it_only_for_a_run_with_trackers(monkeypatch):
    from verl.trainer.ppo.v1 import trainer_base

    before = trainer_base.Tracking
    monkeypatch.setattr(trainer_base, "Tracking", before)
    monkeypatch.delenv("TIR_TRACKING", raising=False)
    tracking.install()
    assert trainer_base.Tracking is before
    monkeypatch.setenv("TIR_TRACKING", '{"name": "a", "config": {}}')
    tracking.install()
    assert trainer_base.Tracking is tracking.BackgroundTracking
