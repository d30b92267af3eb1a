"""Arguments of LLaMA-Factory for DPO, from the section `dpo`, and the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir.common import gpus
from tir.common.errors import ConfigError
from tir.common.schema import Device
from tir.common.tracking import NOT_TRACKED, TrackedRun
from tir.config.dpo import Dpo
from tir.sft.recipe import StepPlan, common_arguments

LORA_SCALE = 2  # alpha / rank; LLaMA-Factory's default, which upstream's recipe leaves as it is


@dataclass(frozen=True)
class DpoRun:
    """Settings of one run.

    Attributes:
        dpo: the section `dpo`.
        device: cuda or cpu.
        seed: seed of the order of the pairs and of the adapter's first weights; that of the arm's RL.
    """

    dpo: Dpo
    device: Device
    seed: int

    @property
    def processes(self) -> int:
        """Number of data-parallel processes: one per GPU of the job, one on a CPU."""
        return gpus.processes(self.dpo.processes, self.device)

    @property
    def deepspeed(self) -> str | None:
        """ZeRO stage of DeepSpeed, or None; a CPU has none."""
        return None if self.device == "cpu" else self.dpo.deepspeed

    @property
    def pass_pairs(self) -> int:
        """Pairs of a forward pass: the most that `dpo.pass_pairs` allows and that divides a process's share of a step.

        Raises `ConfigError` if the processes do not divide a step.
        """
        batch, processes = self.dpo.batch_pairs, self.processes
        if batch % processes:
            fits = max(number for number in range(1, processes + 1) if batch % number == 0)
            raise ConfigError(
                "the GPUs do not divide a step of DPO",
                where="dpo.batch_pairs",
                why=f"{batch} pairs per step, {processes} GPUs",
                remedy=f"dpo: {{batch_pairs: {processes * max(1, batch // processes)}}}, or {fits} GPUs in the profile",
            )
        share = batch // processes
        return max(number for number in range(1, min(share, self.dpo.pass_pairs) + 1) if share % number == 0)


def plan_steps(pairs: int, run: DpoRun) -> StepPlan:
    """Steps of a run: the last one of an epoch takes the pairs that are left."""
    per_epoch = math.ceil(pairs / run.dpo.batch_pairs)
    boundaries = tuple(per_epoch * epoch for epoch in range(1, run.dpo.epochs + 1))
    return StepPlan(train_rows=pairs, eval_rows=0, total=boundaries[-1], boundaries=boundaries)


def render_recipe(
    run: DpoRun,
    plan: StepPlan,
    *,
    policy: Path,
    tokenized: Path,
    output: Path,
    deepspeed_file: Path | None = None,
    resume: Path | None = None,
    tracked: TrackedRun = NOT_TRACKED,
) -> dict[str, Any]:
    """Arguments of `llamafactory-cli train`, as a flat mapping.

    Args:
        run: settings of the run.
        plan: its steps.
        policy: directory of the policy; also the reference.
        tokenized: data set of the pairs, with their labels.
        output: directory of checkpoints.
        deepspeed_file: DeepSpeed configuration, or None.
        resume: checkpoint to resume from, or None to start from the policy.
        tracked: experiment trackers of the run.
    """
    dpo = run.dpo
    recipe = common_arguments(run, dpo, plan, policy, tokenized, output, deepspeed_file, resume, tracked) | {
        "stage": "dpo",
        "finetuning_type": dpo.method,
        "pref_beta": dpo.beta,
        "pref_loss": "sigmoid",
        "per_device_train_batch_size": run.pass_pairs,
        "gradient_accumulation_steps": dpo.batch_pairs // run.processes // run.pass_pairs,
        "disable_gradient_checkpointing": not dpo.gradient_checkpointing,
        "seed": run.seed,
        "data_seed": run.seed,
    }
    if dpo.method == "lora":
        recipe |= {"lora_rank": dpo.lora_rank, "lora_alpha": LORA_SCALE * dpo.lora_rank, "lora_target": "all"}
    return recipe
