"""A tiny policy and a LoRA adapter of it, for tests of DPO."""

from pathlib import Path

import torch

from tir.config.world import TinyModelSettings
from tir.world.tiny_model import make_tiny_model

TEXTS = ["<think>add</think><python>print(2+3)</python>"] * 3
SIZES = {"vocab_size": 300, "hidden": 64, "layers": 2, "heads": 2, "intermediate": 48}


def tiny_policy(directory: Path, **sizes) -> Path:
    """A policy in `directory`, with the sizes `SIZES` except for those given."""
    make_tiny_model(TEXTS, directory, TinyModelSettings(**SIZES | sizes))
    return directory


def adapted_policy(directory: Path) -> tuple[Path, Path]:
    """The directories of a policy, and of a random adapter in a checkpoint of its run."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    policy, checkpoint = tiny_policy(directory / "policy"), directory / "run/checkpoints/checkpoint-3"
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    torch.manual_seed(0)
    adapter = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    adapter.save_pretrained(checkpoint)
    return policy, checkpoint
