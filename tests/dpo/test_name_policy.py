"""The policy of a part of RL gets the id and the manifest of its arm, step and seed."""

import sys

import torch
from safetensors.torch import save_file

from scripts import name_policy
from tir.common.model_files import read_model_manifest, write_manifest


def test_the_policy_is_moved_and_named_after_the_arms_own_step_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, facts in (
        ("made/tool_star-step10-seed10001", {"model": "tool_star-step10-seed10001", "step": 10, "seed": 10001}),
        ("models/grpo-step10-dpo1-seed1", {"model": "grpo-step10-dpo1-seed1"}),
        ("models/tool_star-step20-seed1", {"model": "of an earlier run"}),
    ):
        (tmp_path / name).mkdir(parents=True)
        save_file({"weight": torch.full((2,), float(len(name)))}, tmp_path / name / "model.safetensors")
        write_manifest(tmp_path / name, **facts)
    arguments = ["--made", "made/tool_star-step10-seed10001", "--policy", "models/grpo-step10-dpo1-seed1"]
    arguments += ["--output", "models/tool_star-step20-seed1", "--arm", "tool_star", "--step", "20", "--seed", "1"]
    digest = read_model_manifest("made/tool_star-step10-seed10001")["sha256"]
    monkeypatch.setattr(sys, "argv", ["name_policy", *arguments])
    name_policy.main()
    expected = {"model": "tool_star-step20-seed1", "arm": "tool_star", "step": 20, "seed": 1}
    expected |= {"policy": "grpo-step10-dpo1-seed1", "sha256": digest}
    assert read_model_manifest("models/tool_star-step20-seed1") == expected
    assert not (tmp_path / "made/tool_star-step10-seed10001").exists()
