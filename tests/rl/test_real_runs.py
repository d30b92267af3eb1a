"""Slow tests: real runs of verl with few steps."""

import os
import time

import numpy as np
import pytest
import torch
from support.rl_inputs import rl_run, rows_file, untrained_model

from tir.common.records import read_jsonl
from tir.config.tools import Tools
from tir.rl import launch
from tir.rl.inputs import RunInputs
from tir.rollout.prompts import render_prompt

SLOW = {
    "device": "cpu",
    "precision": "fp32",
    "rows": 8,
    "steps": 2,
    "save_every": 1,
    "validate_every": 2,
    "batch_prompts": 4,
    "mini_batch_prompts": 4,
    "group_size": 2,
    "learning_rate": 1e-3,
    "entropy_coef": 0.0,
    "max_prompt_tokens": 64,
    "max_response_tokens": 48,
    "tools": Tools(routes={"math": ["python"], "qa": ["python"]}, result_tokens=96, python={"output_chars": 100}),
}


@pytest.mark.slow
def test_two_real_steps_of_grpo_change_the_policy_and_engine_and_trainer_agree(tmp_path):
    """With untied output embeddings, as of Qwen2.5-7B; the other real steps are those of a model with tied ones."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    untrained_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", tie_word_embeddings=False)
    model.lm_head.weight.data.normal_(std=0.02)
    model.save_pretrained(tmp_path / "model")
    data = rows_file(tmp_path / "rows.parquet", *"12345678")
    inputs = RunInputs(tmp_path / "model", data, data, "Use tools.")
    policies = launch.train(rl_run(**SLOW), inputs, tmp_path / "run")
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] and "val/test_score/grpo_mix" in rows[0]
    # Engine and trainer have the same weights, before and after an update: token probabilities agree in fp32.
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in rows[1:])
    assert all(len(read_jsonl(tmp_path / "run" / "rollouts" / f"train_{step}.jsonl")) == 8 for step in (1, 2))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "model", policies[-1]))
    assert before.keys() == after.keys() and "lm_head.weight" in before
    assert sorted(path.name for path in policies[-1].iterdir()) == sorted(
        path.name for path in (tmp_path / "model").iterdir() if path.name != "manifest.json"
    )
    scores = {row["score"] for row in read_jsonl(tmp_path / "run" / "rollouts" / "train_1.jsonl")}
    assert scores == {-1.0}  # an untrained model always violates the protocol, so all advantages are 0
    assert all(value.equal(after[name]) or (value - after[name]).abs().max() < 1e-3 for name, value in before.items())


def taught_model(directory):
    """A model that answers every question with 1 or 2, each about as often."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    untrained_model(directory)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    answers = [rf"<think>t</think><answer>\[ \boxed{{{digit}}} \]</answer>" for digit in (1, 2)]
    rows = [
        (render_prompt(tokenizer, "Use tools.", f"q{row}"), tokenizer.encode(answer, add_special_tokens=False))
        for row in range(8)
        for answer in answers
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in rows) + 1
    ids, labels = torch.full((2, len(rows), length), tokenizer.eos_token_id)
    labels[:] = -100
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt + answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt + answer) + 1] = torch.tensor([*answer, tokenizer.eos_token_id])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "estimator"),
    [
        ("keep", "grpo"),
        ("drop", "aspo"),
        pytest.param(
            "resample",
            "grpo",
            marks=pytest.mark.skipif(
                "TIR_LONG" not in os.environ, reason="takes up to seven minutes; TIR_LONG=1 runs it"
            ),
        ),
    ],
)
def test_real_steps_keep_drop_or_replace_groups_of_equal_rewards(tmp_path, mode, estimator):
    """Two trajectories per group, of which about half have equal rewards. verl fills up a batch of fewer groups."""
    train = rows_file(tmp_path / "train.parquet", *64 * "1", questions=[f"q{row % 8}" for row in range(64)])
    validation = rows_file(tmp_path / "validation.parquet", "1", "1")
    inputs = RunInputs(taught_model(tmp_path / "model"), train, validation, "Use tools.")
    settings = SLOW | {"rows": 64, "batch_prompts": 8, "mini_batch_prompts": 4, "zero_variance_groups": mode}
    run = rl_run(**settings, estimator=estimator)
    launch.train(run, inputs, tmp_path / "run")
    steps = read_jsonl(tmp_path / "run" / "metrics.jsonl")[1:]
    assert len(steps) == 2
    for row in steps:
        trajectories = read_jsonl(tmp_path / "run" / "rollouts" / f"train_{row['step']}.jsonl")
        groups: dict[int, list[float]] = {}
        for each in trajectories:
            groups.setdefault(each["index"], []).append(each["score"])
        differing = [scores for scores in groups.values() if len(set(scores)) > 1]
        assert 0 < len(differing) < len(groups)
        assert row["train/zero_variance_share"] == pytest.approx(1 - len(differing) / len(groups))
        evicted = row.get("training/filter_groups/evicted_samples", 0)
        surplus = row.get("training/filter_groups/discarded_surplus_samples", 0)
        assert evicted == (0 if mode == "keep" else len(groups) - len(differing))
        trained = len(groups) - evicted - surplus
        assert trained < 8 if mode == "drop" else trained == 8
        assert 0 < row["actor/grad_norm"] < 100
        if mode == "drop":
            assert row["critic/score/mean"] == pytest.approx(np.mean(differing))
        if estimator == "aspo":
            assert row["aspo/zero_variance_groups"] == 0  # nor are those counted that verl fills the batch with


@pytest.mark.slow
def test_two_ranks_in_bf16_track_the_divergence_from_the_reference_model(tmp_path):
    """What the paper's scale sets: several ranks, bf16, a reference model. The entropy bonus changes the policy."""
    from safetensors.torch import load_file

    data = rows_file(tmp_path / "rows.parquet", *"12345678")
    inputs = RunInputs(untrained_model(tmp_path / "model"), data, data, "Use tools.")
    settings = SLOW | {"processes": 2, "precision": "bf16", "track_kl": True, "entropy_coef": 0.5}
    policies = launch.train(rl_run(**settings), inputs, tmp_path / "run")
    first, second = (row["actor/kl_loss"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")[1:])
    assert abs(first) < 1e-3 < second < 100  # the first step computes the divergence before it updates
    weights = load_file(policies[-1] / "model.safetensors").values()
    assert all(str(weight.dtype) == "torch.bfloat16" and weight.isfinite().all() for weight in weights)


@pytest.mark.slow
def test_a_real_run_near_its_time_limit_saves_every_step(tmp_path, monkeypatch):
    inputs = RunInputs(
        untrained_model(tmp_path / "model"), *2 * [rows_file(tmp_path / "rows.parquet", *"12345678")], "Use tools."
    )
    collect, saved = launch.collect, []

    def record_and_collect(directory, rl):
        saved[:] = sorted(path.name for path in (directory / "policies").iterdir())
        return collect(directory, rl)

    monkeypatch.setattr(launch, "collect", record_and_collect)

    def train(name):
        run = tmp_path / name
        policies = launch.train(rl_run(**SLOW | {"steps": 3, "save_every": 3, "validate_every": 3}), inputs, run)
        assert policies == list((run / "policies").iterdir()) == [run / "policies" / "step3"]

    started = time.time()
    train("unlimited")
    seconds = time.time() - started
    assert saved == ["step3"]
    # The limit must come after the trainer has begun and before the second step ends. This machine's speed may change.
    for share in (0.75, 0.6, 0.9):
        monkeypatch.setenv("JOB_END_TIME", str(time.time() + share * seconds))
        train(f"limited{share}")
        if saved != ["step3"]:
            break
    assert saved == ["step2", "step3"]
