"""The LLaMA-Factory recipe of a run, rendered from plain settings, and the arithmetic of its steps.

The defaults are the paper's recipe (appendix C.2 as quoted in section 4): full fine-tuning, ZeRO-3, 4 x 4 x 8 = 128
rows per step, learning rate 7e-6, cosine, warm-up 0.1, three epochs, weight decay 0.1, clipping at 1.0, bf16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tir.errors import ConfigError


@dataclass(frozen=True)
class SftSettings:
    """Everything a fine-tuning run is told; see `tir.sft.render.RenderSettings` for the first four.

    Attributes:
        max_rows: rows used from the head of the file; None takes all.
        holdout: share of rows held out for the evaluation loss.
        gpus: data-parallel processes; with `device="cpu"` always one.
        group_by_length: batches of rows of like length, less padding.
        gradient_checkpointing: recompute activations instead of keeping them.
        logging_steps: steps between two records of the log.
        seed: seed of hold-out, data order and dropout.
    """

    layout: Literal["upstream_user", "system_role"] = "upstream_user"
    mask_results: bool = False
    leading_space: bool = False
    cutoff_tokens: int = 4096
    max_rows: int | None = None
    holdout: float = 0.02
    epochs: int = 3
    per_device_batch: int = 4
    accumulation: int = 4
    gpus: int = 8
    learning_rate: float = 7e-6
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = "zero3"
    attention: Literal["fa2", "sdpa", "eager"] = "fa2"
    group_by_length: bool = False
    gradient_checkpointing: bool = True
    logging_steps: int = 10
    seed: int = 42
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def processes(self) -> int:
        """Data-parallel processes."""
        return 1 if self.device == "cpu" else self.gpus


@dataclass(frozen=True)
class StepPlan:
    """What a run will do.

    Attributes:
        train_rows, eval_rows: rows after the hold-out.
        total: optimiser steps in all.
        boundaries: step of the checkpoint that ends each epoch.
    """

    train_rows: int
    eval_rows: int
    total: int
    boundaries: tuple[int, ...]


def plan_steps(rows: int, holdout: float, per_device_batch: int, gpus: int, accumulation: int, epochs: int) -> StepPlan:
    """Steps of a run as the paper's Trainer (transformers 4.49) counts them.

    The total is epochs times the *whole* accumulations of an epoch, but each epoch also takes a step on its trailing
    partial accumulation; so boundaries lie at ceil(micro-batches / accumulation) and the last epoch ends early: 414,
    828, 1239 for the full data. Later Trainers would go on to 1242, so the recipe states the total.
    """
    eval_rows = math.ceil(holdout * rows)
    micro_batches = math.ceil((rows - eval_rows) / (per_device_batch * gpus))
    total = epochs * max(1, micro_batches // accumulation)
    per_epoch = math.ceil(micro_batches / accumulation)
    boundaries = sorted({min(epoch * per_epoch, total) for epoch in range(1, epochs)} | {total})
    if len(boundaries) < epochs:
        raise ConfigError("an epoch has too few steps to end in a checkpoint of its own", where="sft",
                          why=f"{micro_batches} micro-batches, accumulation {accumulation}, {epochs} epochs",
                          remedy="sft: {accumulation: 1}, or fewer epochs, or more rows")
    return StepPlan(rows - eval_rows, eval_rows, total, tuple(boundaries))


def render_recipe(settings: SftSettings, plan: StepPlan, *, base: str | Path, tokenized: str | Path, output: str | Path,
                  deepspeed_file: str | Path | None = None, resume: str | Path | None = None) -> dict[str, Any]:
    """The arguments of `llamafactory-cli train`, a flat mapping.

    Args:
        base: directory of the model to start from.
        tokenized: directory written by `write_tokenized`.
        output: directory of checkpoints.
        deepspeed_file: DeepSpeed configuration, when one is used.
        resume: checkpoint to go on from, or None for a fresh run.
    """
    recipe: dict[str, Any] = {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "template": "qwen",
        "model_name_or_path": str(base), "trust_remote_code": False,
        # LLaMA-Factory demands a name, and reads the tokenised directory instead of looking it up.
        "dataset": "tokenized", "tokenized_path": str(tokenized), "cutoff_len": settings.cutoff_tokens,
        "output_dir": str(output), "overwrite_output_dir": False,
        "num_train_epochs": settings.epochs, "max_steps": plan.total,
        "per_device_train_batch_size": settings.per_device_batch, "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.learning_rate, "lr_scheduler_type": settings.schedule,
        "warmup_steps": math.ceil(settings.warmup_ratio * plan.total), "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.grad_clip, "bf16": settings.precision == "bf16",
        "flash_attn": {"fa2": "fa2", "sdpa": "sdpa", "eager": "disabled"}[settings.attention],
        "disable_gradient_checkpointing": not settings.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if settings.group_by_length else "random",
        "logging_steps": settings.logging_steps, "save_strategy": "epoch", "report_to": "none", "plot_loss": False,
        "seed": settings.seed, "data_seed": settings.seed, "ddp_timeout": 180000000,
        "enable_jit_checkpoint": True,  # SIGTERM saves a checkpoint at the next step, then ends
    }
    if plan.eval_rows:
        recipe |= {"eval_dataset": "tokenized", "eval_strategy": "epoch",
                   "per_device_eval_batch_size": settings.per_device_batch}
    if settings.device == "cpu":
        recipe["use_cpu"] = True
    if deepspeed_file is not None:
        recipe["deepspeed"] = str(deepspeed_file)
    if resume is not None:
        recipe["resume_from_checkpoint"] = str(resume)
    return recipe


def deepspeed_config(stage: Literal["zero1", "zero2", "zero3"]) -> dict[str, Any]:
    """DeepSpeed's configuration: the named ZeRO stage, every size left to the Trainer ("auto")."""
    optimization: dict[str, Any] = {"stage": int(stage[-1]), "overlap_comm": True, "contiguous_gradients": True}
    if stage == "zero3":
        optimization |= {key: "auto" for key in ("reduce_bucket_size", "stage3_prefetch_bucket_size",
                                                 "stage3_param_persistence_threshold")}
        optimization["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}, "zero_optimization": optimization,
    }
