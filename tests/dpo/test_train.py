"""What the DPO stage writes around the trainer, killed before and after each file, with a trainer that is replaced."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.adapters import adapted_policy
from support.kills import assert_same_after_each_kill

from tir.common.records import read_json, read_jsonl, write_json, write_jsonl
from tir.config.dpo import Dpo
from tir.dpo import train as stage
from tir.dpo.recipe import DpoRun

ROW = {f"{side}_{name}": [1, 2, 3] for side in ("chosen", "rejected") for name in ("input_ids", "attention_mask")}
ROW |= {f"{side}_labels": [-100, 2, 3] for side in ("chosen", "rejected")}
STATE = {"log_history": [{"step": 1, "loss": 0.69}]}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The stage on three pairs, whose trainer only writes its last checkpoint."""
    policy, adapter = adapted_policy(tmp_path / "inputs")
    write_json(policy / "manifest.json", {"model": "grpo-step2-seed1", "arm": "grpo", "step": 2})
    write_jsonl(tmp_path / "pairs.jsonl", [ROW] * 3)

    def trainer(module, directory, recipe, schedule, **_):
        last = Path(recipe["output_dir"]) / f"checkpoint-{recipe['max_steps']}"
        shutil.copytree(adapter, last)
        (last / "trainer_state.json").write_text(json.dumps(STATE | {"global_step": recipe["max_steps"]}))

    monkeypatch.setattr(stage, "run_trainer", trainer)
    made, settings = tmp_path / "made", DpoRun(Dpo(epochs=1, batch_pairs=2), "cpu", seed=1)

    def train():
        torch.set_num_threads(1)  # a forked process has no thread but one
        stage.train(policy, tmp_path / "pairs.jsonl", made / "training", made / "model", settings)

    return train


def test_a_killed_job_writes_the_same_bytes_when_it_is_repeated(run, tmp_path):
    assert assert_same_after_each_kill(run, tmp_path / "made") >= 2 * 4  # work.json, log, manifest, model
    assert read_jsonl(tmp_path / "made/training/log.jsonl") == [{"step": 1, "loss": 0.69, "pairs": 3}]
    assert read_json(tmp_path / "made/model/manifest.json")["policy"] == "grpo-step2-seed1"
