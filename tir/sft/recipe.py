"""Arguments of LLaMA-Factory for a run, from the section `sft`, and the number of its steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tir.common.errors import ConfigError
from tir.common.tracking import NOT_TRACKED, TrackedRun
from tir.config.dpo import Dpo
from tir.config.sft import Sft
from tir.sft.run import SftRun


@dataclass(frozen=True)
class StepPlan:
    """Rows and steps of a run.

    Attributes:
        train_rows, eval_rows: number of training rows and of held-out rows.
        total: total number of optimiser steps.
        boundaries: last step of each epoch, at which a checkpoint is saved.
        within: steps in the middle of the epochs, at which a checkpoint is saved as well, so that a run that is killed
            loses at most half an epoch.
    """

    train_rows: int
    eval_rows: int
    total: int
    boundaries: tuple[int, ...]

    @property
    def within(self) -> tuple[int, ...]:
        middles = {(begin + end) // 2 for begin, end in itertools.pairwise((0, *self.boundaries))}
        return tuple(sorted(middles - {0, *self.boundaries}))


def plan_steps(rows: int, holdout: float, batch_rows: int, epochs: int) -> StepPlan:
    """Steps of a run as the paper's Trainer (transformers 4.49) counts them.

    The total is epochs times floor(rows / batch_rows). But an epoch has ceil(rows / batch_rows) steps, because its last
    step may have fewer rows. So the last epoch ends early: boundaries 414, 828 and 1239 for the full data. Later
    versions of the Trainer would continue to 1242, so the recipe sets `max_steps`.

    Raises:
        ConfigError: there are fewer steps than epochs need.
    """
    eval_rows = math.ceil(holdout * rows)
    total = epochs * max(1, (rows - eval_rows) // batch_rows)
    per_epoch = math.ceil((rows - eval_rows) / batch_rows)
    boundaries = sorted({min(epoch * per_epoch, total) for epoch in range(1, epochs)} | {total})
    if len(boundaries) < epochs:
        raise ConfigError(
            "too few steps for a checkpoint after each epoch",
            where="sft",
            why=f"{rows - eval_rows} training rows, {batch_rows} rows per step, {epochs} epochs",
            remedy=f"sft: {{batch_rows: {max(1, (rows - eval_rows) // 2)}}}, or fewer epochs, or more rows",
        )
    return StepPlan(rows - eval_rows, eval_rows, total, tuple(boundaries))


def render_recipe(
    run: SftRun,
    plan: StepPlan,
    *,
    base: str | Path,
    tokenized: str | Path,
    output: str | Path,
    passes: int = 1,
    recompute: bool = True,
    deepspeed_file: str | Path | None = None,
    resume: str | Path | None = None,
    tracked: TrackedRun = NOT_TRACKED,
) -> dict[str, Any]:
    """Arguments of `llamafactory-cli train`, as a flat mapping.

    Args:
        run: settings of the run.
        plan: its steps.
        base: directory of the base model.
        tokenized: directory written by `write_tokenized`.
        output: directory of checkpoints.
        passes: forward passes per step and process (see `tir.sft.batches`).
        recompute: recompute activations in the backward pass.
        deepspeed_file: DeepSpeed configuration, or None.
        resume: checkpoint to resume from, or None to start from the base model.
        tracked: experiment trackers of the run.
    """
    sft, cuda = run.sft, run.device == "cuda"
    recipe = common_arguments(run, sft, plan, base, tokenized, output, deepspeed_file, resume, tracked) | {
        "stage": "sft",
        "finetuning_type": "full",
        "cutoff_len": sft.cutoff_tokens,
        # `tir.sft.trainer` makes the batches. For LLaMA-Factory a batch is one forward pass, of any number of rows.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": passes,
        "disable_gradient_checkpointing": not recompute,
        "enable_liger_kernel": cuda,
        "seed": sft.seed,
        "data_seed": sft.seed,
        "full_determinism": cuda and sft.full_determinism,
    }
    if plan.eval_rows:
        recipe |= {"eval_dataset": "tokenized", "eval_strategy": "epoch", "per_device_eval_batch_size": 1}
    return recipe


def common_arguments(
    run: Any,
    section: Sft | Dpo,
    plan: StepPlan,
    start: str | Path,
    tokenized: str | Path,
    output: str | Path,
    deepspeed_file: str | Path | None,
    resume: str | Path | None,
    tracked: TrackedRun,
) -> dict[str, Any]:
    """The arguments that fine-tuning and DPO have both.

    Args:
        run: an `SftRun` or a `DpoRun`.
        section: its section `sft` or `dpo`.
        start: directory of the model to train.

    The others are those of `render_recipe`.
    """
    recipe = {
        "do_train": True,
        # The rows are tokenised already. This template changes neither them nor the tokenizer.
        "template": "empty",
        "model_name_or_path": str(start),
        "trust_remote_code": False,
        # LLaMA-Factory requires a name, but reads `tokenized_path` instead.
        "dataset": "tokenized",
        "tokenized_path": str(tokenized),
        "output_dir": str(output),
        "overwrite_output_dir": False,
        "num_train_epochs": section.epochs,
        "max_steps": plan.total,
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.schedule,
        "warmup_steps": math.ceil(section.warmup_ratio * plan.total),
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.grad_clip,
        "bf16": section.precision == "bf16",
        "flash_attn": {"fa2": "fa2", "sdpa": "sdpa", "eager": "disabled"}[section.attention],
        "logging_steps": section.logging_steps,
        "save_strategy": "epoch",
        "report_to": "none",
        "plot_loss": False,
        "ddp_timeout": section.stall_s,
    }
    if run.device == "cpu":
        recipe["use_cpu"] = True
        if run.processes > 1:
            recipe["ddp_backend"] = "gloo"
    recipe |= tracked.arguments
    if deepspeed_file is not None:
        recipe["deepspeed"] = str(deepspeed_file)
    if resume is not None:
        recipe["resume_from_checkpoint"] = str(resume)
    return recipe


def deepspeed_config(stage: Literal["zero1", "zero2", "zero3"]) -> dict[str, Any]:
    """Configuration of DeepSpeed for a ZeRO stage; the Trainer sets the sizes ("auto")."""
    optimization: dict[str, Any] = {
        "stage": int(stage[-1]),
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": 200_000_000,  # elements; the default of 500 M takes 2 GB with overlap
        "allgather_bucket_size": 200_000_000,
    }
    if stage == "zero3":
        optimization |= {
            key: "auto"
            for key in ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
        }
        optimization["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": optimization,
    }
