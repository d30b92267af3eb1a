"""Exported policies, and the steps that are saved before a time limit."""

from types import SimpleNamespace

import pytest
import torch

from tir.common.errors import CheckpointError
from tir.rl.deadline import Deadline
from tir.rl.export import export_policy


def test_a_policy_has_the_files_of_the_starting_model_and_new_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir(), saved.mkdir()
    (source / "config.json").write_text('{"dtype": "bfloat16"}')
    (source / "tokenizer.json").write_text("{}")
    (source / "manifest.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, source / "model.safetensors")
    save_file({"w": torch.ones(2)}, saved / "model.safetensors")
    export_policy(saved, source, tmp_path / "out", "bfloat16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    weight = load_file(tmp_path / "out" / "model.safetensors")["w"]
    assert weight.dtype == torch.bfloat16 and weight.tolist() == [1.0, 1.0]
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        export_policy(saved, source, tmp_path / "out", "bfloat16")


def test_the_last_steps_before_a_time_limit_are_saved(monkeypatch, capsys):
    trainer = SimpleNamespace(global_steps=0, config=SimpleNamespace(trainer=SimpleNamespace(save_freq=15)))
    watch = Deadline(9_100.0)
    for trainer.global_steps, now in enumerate(range(0, 9000, 600), start=1):
        monkeypatch.setattr("tir.rl.deadline.time.time", lambda now=now: float(now))
        watch.on_step_begin(trainer)
        # The step that begins at 7,800 s ends at 8,400 s, and the next at 9,000 s, before the limit of 9,100 s.
        assert trainer.config.trainer.save_freq == (15 if now <= 7800 else 1), now
    assert "from step 15 on" in capsys.readouterr().out
