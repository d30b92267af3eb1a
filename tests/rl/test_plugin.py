"""What this project changes in verl's trainer: which modules are sharded one by one."""

import os
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.rl_inputs import rl_run, run_files

from tir.rl.environment import environment

FORWARD = """
import sys
import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import Qwen2Config, Qwen2ForCausalLM
import tir.rl.loopback, tir.rl.plugin
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils.fsdp_utils import apply_fsdp2

torch.distributed.init_process_group("gloo")
sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
config = Qwen2Config(**sizes, tie_word_embeddings=sys.argv[1] == "tied", attn_implementation="packed")
model = Qwen2ForCausalLM(config)
apply_monkey_patch(model, use_remove_padding=True, use_fused_kernels=True, fused_kernels_backend="torch")
apply_fsdp2(model, {"mesh": init_device_mesh("cpu", (1,)), "reshard_after_forward": True}, {})
ids = torch.arange(8)[None]
output = model(input_ids=ids, position_ids=ids, use_cache=False, temperature=1.0, shift_labels=ids, return_dict=True)
output.log_probs.sum().backward()
gradient = model.lm_head.weight.grad.full_tensor()
print(tuple(output.log_probs.shape), bool(gradient.abs().sum() > 0))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("embeddings", ["tied", "untied"])
def test_a_model_is_trained_whether_its_output_embeddings_are_tied_or_not(tmp_path, embeddings):
    """The model of the paper has tied embeddings; Qwen2.5-7B and Llama-3.1-8B, for example, do not."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0"}
    variables = environment(rl_run(device="cpu"), run_files(tmp_path), 2)
    done = subprocess.run(
        [sys.executable, "-c", FORWARD, embeddings],
        capture_output=True,
        text=True,
        env={**os.environ, **variables, **world},
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1:] == ["(1, 8) True"], done.stderr[-3000:]
