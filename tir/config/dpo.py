"""Direct preference optimisation (DPO) on pairs of the policy's own trajectories, and its place in an arm."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tir.common.schema import Model, Name, Share, operational


class Schedule(Model):
    """When an arm's policy goes through DPO: once at the end, or at intervals between which RL goes on."""

    after: Literal["last"] | None = Field(None, description="last: once, after the last step of RL")
    every: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="epochs of RL before each DPO; rounded down to a multiple of `rl.save_every` steps",
    )
    rl: Name | None = Field(
        None, description="the arm whose RL comes before it, which differs in nothing else; null: the arm's `base`"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Schedule:
        if (self.after is None) == (self.every is None):
            raise ValueError("write either after: last, or every: 0.5 (epochs of RL)")
        return self


class Pairs(Model):
    """Which trajectories make a pair: a chosen one and a rejected one of the same prompt."""

    rows: int = Field(1000, ge=1, description="prompts, from the head of the RL rows")
    samples: int = Field(
        4, ge=2, le=1024, description="trajectories per prompt, sampled with the tools and `rl.temperature`"
    )
    chosen_from: float = Field(1.0, ge=-1, le=2, description="smallest reward of a chosen trajectory")
    rejected_below: float = Field(1.0, ge=-1, le=2, description="rewards of rejected trajectories are below this one")
    per_prompt: int = Field(1, ge=1, le=1024, description="most pairs of a prompt; no trajectory is in two of them")
    cutoff_tokens: int = Field(
        8192, ge=16, le=1_000_000, description="maximum length of prompt and response; longer trajectories are left out"
    )

    @model_validator(mode="after")
    def _labels_differ(self) -> Pairs:
        if self.rejected_below > self.chosen_from:
            raise ValueError(
                f"rejected_below {self.rejected_below:g} must not exceed chosen_from {self.chosen_from:g}, or a "
                "trajectory is both chosen and rejected"
            )
        return self


class Dpo(Model):
    """Self-critic DPO of Tool-Star, with LLaMA-Factory; the reference is the policy that the pairs were sampled from.

    The defaults are upstream's recipe (`examples/train_lora/qwen_lora_dpo_2.yaml`).
    """

    pairs: Pairs = Field(Pairs(), description="sampling, labels and pairs")
    method: Literal["lora", "full"] = Field(
        "lora", description="lora: adapters on all linear layers, merged at the end; full: all weights"
    )
    lora_rank: int = Field(8, ge=1, le=1024, description="lora: rank of the adapters; their scale is 2, as upstream")
    beta: float = Field(0.1, gt=0, le=10, description="weight of the reference in DPO's sigmoid loss")
    epochs: int = Field(3, ge=1, le=100, description="passes over the pairs")
    batch_pairs: int = Field(
        16, ge=1, le=65_536, description="pairs per optimiser step (effective batch), on any number of GPUs"
    )
    learning_rate: float = Field(5e-6, gt=0, lt=1, description="peak learning rate, after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="schedule of the learning rate after the warm-up"
    )
    warmup_ratio: Share = Field(0.1, description="fraction of the optimiser steps for the warm-up")
    weight_decay: float = Field(0.0, ge=0, le=1, description="weight decay of AdamW")
    grad_clip: float = Field(1.0, gt=0, le=1000, description="maximum norm of the gradient")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="data type of the computation")
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = Field(
        None, description="ZeRO stage of DeepSpeed; null: none, enough for lora; ignored on a CPU"
    )
    attention: Literal["fa2", "sdpa", "eager"] = Field("sdpa", description="as `sft.attention`")
    logging_steps: int = Field(1, ge=1, description="steps between log records")
    processes: int = operational(
        0, ge=0, le=1024, description="number of data-parallel processes; 0: one per GPU, one on a CPU"
    )
    pass_pairs: int = operational(1, ge=1, description="most pairs in a forward pass of a process")
    gradient_checkpointing: bool = operational(True, description="recompute activations instead of storing them")
    stall_s: int = operational(
        3600, ge=10, description="seconds without a finished step after which the run ends with an error"
    )
