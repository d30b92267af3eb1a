"""The Hydra overrides and environment variables of a run, and what verl makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.paths import ROOT
from support.rl_inputs import rl_run, run_files

from tir.rl.environment import environment
from tir.rl.overrides import hydra_value, overrides
from tir.rl.run import RlRun


def rendered(run: RlRun, **options) -> dict[str, str]:
    lines = overrides(run, run_files(Path("/r")), **options)
    assert len({line.split("=", 1)[0].lstrip("+") for line in lines}) == len(lines), "a key is given twice"
    return dict(line.split("=", 1) for line in lines)


def test_arms_differ_only_in_the_advantage():
    grpo, aspo = (
        rendered(rl_run(estimator=name, coefficients={"lam": 0.3, "delta": None} if name == "aspo" else {}))
        for name in ("grpo", "aspo")
    )
    changed = {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)}
    assert changed == {"trainer.v1.trainer_mode", "+algorithm.aspo.lam", "+algorithm.aspo.delta"}
    assert (grpo["trainer.v1.trainer_mode"], aspo["trainer.v1.trainer_mode"]) == ("sync", "aspo")
    assert aspo["+algorithm.aspo.lam"] == "0.3" and aspo["+algorithm.aspo.delta"] == "null"
    grpo, aspo = (environment(rl_run(estimator=name), run_files(Path("/r")), 2) for name in ("grpo", "aspo"))
    assert {key for key in grpo.keys() | aspo.keys() if grpo.get(key) != aspo.get(key)} == {"VERL_USE_EXTERNAL_MODULES"}


def test_settings_reach_the_keys_of_verl():
    values = rendered(
        rl_run(
            device="cpu",
            precision="fp32",
            kl_coef=0.0,
            track_kl=True,
            seed=7,
            steps=30,
            old_log_probs="rollout",
            engine={"max_num_seqs": 64, "block_size": 32, "kv_cache_memory_bytes": 5},
        )
    )
    assert values["trainer.total_training_steps"] == "30" and values["data.seed"] == "7"
    assert values["actor_rollout_ref.actor.use_kl_loss"] == "true"
    assert values["actor_rollout_ref.rollout.max_num_seqs"] == "64"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.block_size"] == "32"
    assert values["+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes"] == "5"  # replaces our default
    assert values["algorithm.rollout_correction.bypass_mode"] == "true"
    assert values["actor_rollout_ref.rollout.dtype"] == "float32"
    cuda = rendered(rl_run(), validate_first=False)
    assert cuda["actor_rollout_ref.actor.use_kl_loss"] == "false" and cuda["trainer.val_before_train"] == "false"
    assert "TIR_FORK_ADDRESS" not in environment(rl_run(), run_files(Path("/r")), 2)  # CUDA cannot be forked
    cuda = environment(rl_run(processes=8), run_files(Path("/r")), 64)  # four processes with threads on each GPU
    assert (cuda["OMP_NUM_THREADS"], cuda["VERL_PLATFORM"]) == ("2", "nvidia")


def test_the_bucket_in_which_weights_are_sent_holds_the_largest_tensor(tmp_path):
    """The embeddings of Qwen2.5's vocabulary have 39 MB even at a width of 64; verl refuses a smaller bucket."""
    from safetensors.numpy import save_file

    run, key = (
        rl_run(device="cpu"),
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
    )
    assert f"{key}=32" in overrides(run, run_files(tmp_path))  # no weights there
    (tmp_path / "model").mkdir()
    save_file({"embeddings": np.zeros((151_936, 64), np.float16)}, tmp_path / "model" / "model.safetensors")
    assert f"{key}=39" in overrides(run, run_files(tmp_path))


@pytest.mark.slow  # imports vLLM
def test_weights_are_sent_without_tied_embeddings_and_not_for_ever(tmp_path):
    """vLLM refuses a bucket with the output embeddings whose input embeddings came in an earlier one.

    After such an error in the receiver, the sender gives up, whether the receiver is gone or does not answer.
    """
    code = """
import asyncio, sys
import zmq
from verl.workers.rollout.vllm_rollout import vllm_rollout
from tir.rl import weights

async def names(tied):
    pairs = iter([("model.embed_tokens.weight", 1), ("model.norm.weight", 2), ("lm_head.weight", 1)])
    return [name async for name, _ in weights.without_tied(pairs, tied)]

print(*asyncio.run(names(True)))
print(*asyncio.run(names(False)))
assert vllm_rollout.BucketedWeightSender is weights.Sender
weights.ANSWER_S = 0.2
for receiver in (False, True):
    sender = weights.Sender(f"ipc://{sys.argv[1]}/{receiver}", 1)
    sender._init_socket()
    if receiver:  # it is there, and does not answer
        other = zmq.Context.instance().socket(zmq.REP)
        other.connect(f"ipc://{sys.argv[1]}/{receiver}")
    try:
        sender.socket.send(b"a bucket")
        sender.socket.recv()
    except zmq.Again:
        print("gave up", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    sent = ["model.embed_tokens.weight model.norm.weight", "model.embed_tokens.weight model.norm.weight lm_head.weight"]
    assert done.stdout.splitlines()[-4:] == [*sent, "gave up", "gave up"], done.stderr


def test_chunked_log_probabilities_equal_those_of_whole_logits():
    """Of verl's forward pass that `use_fused_kernels` selects; 21 tokens in chunks of 512, and in chunks of 4."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    states, weight = torch.rand(21, 16, requires_grad=True), torch.rand(32, 16, requires_grad=True)
    labels, found = torch.randint(0, 32, (21,)), []
    logits = (states @ weight.T / 0.7).log_softmax(-1)
    values = logits.gather(-1, labels[:, None])[:, 0], -(logits.exp() * logits).sum(-1)
    for log_probs, entropy in (values, *(FusedLinearForPPO(size)(states, weight, labels, 0.7) for size in (512, 4))):
        states.grad = weight.grad = None
        (log_probs * torch.linspace(-1, 1, 21) + 0.3 * entropy).sum().backward()
        found.append((log_probs, entropy, states.grad, weight.grad))
    for chunked in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[0], chunked, strict=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_needs_neither_flash_attn_nor_dense_masks_and_logits(device):
    """verl's default is flash-attn, which no lock contains: loading the model would fail."""
    given = overrides(rl_run(device=device), run_files(Path("/r")))
    assert "+actor_rollout_ref.model.override_config.attn_implementation=packed" in given
    assert "actor_rollout_ref.model.use_remove_padding=true" in given  # test_real_runs.py packs sequences too
    assert "actor_rollout_ref.model.use_fused_kernels=true" in given


def test_there_is_one_agent_loop_per_gpu():
    key = "actor_rollout_ref.rollout.agent.num_workers"
    assert [rendered(rl_run(processes=processes))[key] for processes in (1, 2, 8)] == ["1", "2", "8"]


def test_decoding_uses_cuda_graphs_on_gpus_unless_told_otherwise():
    key = "actor_rollout_ref.rollout.enforce_eager"  # false is verl's default
    assert key not in rendered(rl_run(device="cuda")) and rendered(rl_run(device="cpu"))[key] == "true"
    assert rendered(rl_run(device="cuda", engine={"enforce_eager": True}))[key] == "true"


def test_full_determinism_reaches_training_reference_and_rollouts_on_gpus():
    keys = [
        f"actor_rollout_ref.{part}full_determinism" for part in ("actor.fsdp_config.", "ref.fsdp_config.", "rollout.")
    ]
    assert [rendered(rl_run(device="cuda"))[key] for key in keys] == ["false"] * 3
    assert [rendered(rl_run(device="cuda", full_determinism=True))[key] for key in keys] == ["true"] * 3


def test_the_variables_of_verl_s_full_determinism_are_set_before_its_workers_start():
    code = (
        "import json, os\n"
        "from verl.workers.engine.utils import enable_full_determinism\n"
        "before = dict(os.environ); enable_full_determinism(1)\n"
        "print(json.dumps({name: value for name, value in os.environ.items() if before.get(name) != value}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    of_verl = json.loads(done.stdout.splitlines()[-1])
    assert of_verl.pop("PYTHONHASHSEED") == "1"  # `verl.trainer.main_ppo` sets it for all processes
    ours, default = (
        environment(rl_run(device="cuda", full_determinism=on), run_files(Path("/r")), 2) for on in (True, False)
    )
    assert of_verl and of_verl.items() <= ours.items() and not of_verl.keys() & default.keys()


def test_values_are_written_in_hydras_grammar():
    assert [
        hydra_value(value) for value in (None, True, 1e-6, ["a", 1], {"b": False}, Path("/a/b-c.d"), "x=y, 'z'", "")
    ] == ["null", "true", "1e-06", "[a,1]", "{b:false}", "/a/b-c.d", r"'x=y, \'z\''", "''"]


@pytest.mark.slow
@pytest.mark.parametrize("device, estimator", [("cpu", "grpo"), ("cpu", "aspo"), ("cuda", "grpo"), ("cuda", "aspo")])
def test_verl_accepts_every_override(device, estimator):
    """Compose verl's configuration from the overrides and run verl's own check, for CUDA too, without a GPU."""
    run = rl_run(
        device=device,
        estimator=estimator,
        track_kl=True,
        engine={"gpu_memory_utilization": 0.6},
        coefficients={"lam": 0.5, "delta": None} if estimator == "aspo" else {},
    )
    code = (
        "import sys, hydra; from verl.trainer.main_ppo import validate_config, need_critic, need_reference_policy\n"
        "with hydra.initialize_config_module('verl.trainer.config', version_base=None):\n"
        "    lines = [line for line in sys.argv[1:] if not line.startswith('hydra')]\n"
        "    config = hydra.compose('ppo_trainer', lines)\n"
        "reference, critic = need_reference_policy(config), need_critic(config)\n"
        "validate_config(config=config, use_reference_policy=reference, use_critic=critic)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides(run, run_files(Path("/r")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "tir.rl.cpu.platform"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "configuration checks passed" in done.stdout
