"""Supervised fine-tuning and reinforcement learning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tir.config.faults import Fault
from tir.schema import Model, Share


class Sft(Model):
    """Supervised fine-tuning (paper section 4, appendix B)."""

    max_rows: int | None = Field(None, ge=10, description="rows used from the head of the file; null takes all")
    layout: Literal["upstream_user", "system_role"] = Field(
        "upstream_user", description="where the instruction stands: upstream puts it into the user turn for SFT only")
    mask_results: bool = Field(False, description="no loss on tool results; upstream trains on them")
    holdout: Share = Field(0.02, description="share held out for evaluation")
    epochs: int = Field(3, ge=1, le=100)
    per_device_batch: int = Field(4, ge=1, le=4096)
    accumulation: int = Field(4, ge=1, le=4096)
    gpus: int = Field(8, ge=1, le=1024, description="data-parallel processes; part of the effective batch")
    learning_rate: float = Field(7e-6, gt=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Share = 0.1
    weight_decay: float = Field(0.1, ge=0, le=1)
    grad_clip: float = Field(1.0, gt=0, le=1000)
    cutoff_tokens: int = Field(4096, ge=16, le=1_000_000)
    precision: Literal["bf16", "fp32"] = "bf16"
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = "zero3"
    attention: Literal["fa2", "sdpa", "eager"] = Field(
        "sdpa", description="sdpa: torch's own, which runs FlashAttention-2 without a compiler; fa2: the flash-attn package")
    group_by_length: bool = Field(False, description="batches of rows of like length")
    gradient_checkpointing: bool = Field(True, description="recompute activations instead of keeping them")
    logging_steps: int = Field(1, ge=1, description="steps between two records of the log")
    seed: int = Field(42, ge=0)


class Reward(Model):
    """The rule reward."""

    mode: Literal["verified", "upstream_f1"] = Field(
        "verified", description="verified: equivalence for math, token F1 for QA; upstream_f1: token F1 for both")
    both_tools_bonus: float = Field(0.1, ge=0, le=1, description="added when both tools were executed and the score > 0")


class Rl(Model):
    """Reinforcement learning with verl (paper sections 4 and 5.5)."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field([1, 2, 3], min_length=1, description="one run per arm and seed")
    rows: int = Field(1000, ge=1, description="rows taken from the head of the training file")
    steps: int = Field(30, ge=1, le=100_000, description="optimiser steps really executed")
    batch_prompts: int = Field(32, ge=1, description="prompts per step")
    mini_batch_prompts: int = Field(32, ge=1, description="prompts per optimiser update")
    group_size: int = Field(4, ge=2, le=1024, description="rollouts per prompt")
    learning_rate: float = Field(1e-6, gt=0, lt=1)
    kl_coef: float = Field(0.0, ge=0, le=10)
    entropy_coef: float = Field(0.001, ge=0, le=1)
    clip_ratio: float = Field(0.2, gt=0, lt=1)
    temperature: float = Field(1.0, gt=0, le=10)
    track_kl: bool = Field(False, description="log the divergence from the starting policy; costs a reference model")
    old_log_probs: Literal["recompute", "rollout"] = Field(
        "recompute", description="proximal policy: recomputed by the trainer, or as the rollout engine reported")
    micro_batch_tokens: int = Field(0, ge=0, description="tokens per forward pass and device; 0: twice the longest")
    max_prompt_tokens: int = Field(1536, ge=16)
    max_response_tokens: int = Field(4096, ge=16)
    validate_every: int = Field(15, ge=1, description="steps between validations; one also stands before training")
    save_every: int = Field(15, ge=1, description="steps between checkpoints")
    gpus: int = Field(8, ge=1, le=1024)
    precision: Literal["bf16", "fp32"] = "bf16"
    reward: Reward = Reward()
    engine: dict[str, bool | int | float | str] = Field(default={}, description="options of the rollout engine")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise Fault((), f"{value}: a seed twice is one run counted as two, and no spread between them", paste=((), list(dict.fromkeys(value))))
        return value

    @model_validator(mode="after")
    def _divides(self) -> Rl:
        if self.batch_prompts % self.mini_batch_prompts:
            raise ValueError(f"mini_batch_prompts {self.mini_batch_prompts} must divide batch_prompts {self.batch_prompts}")
        if self.batch_prompts > self.rows:
            raise ValueError(f"batch_prompts {self.batch_prompts} is more than the {self.rows} rows there are")
        if self.mini_batch_prompts * self.group_size % self.gpus:
            raise ValueError(f"gpus {self.gpus} must divide an update's mini_batch_prompts {self.mini_batch_prompts} times "
                             f"group_size {self.group_size} trajectories")
        if self.steps % self.save_every:
            raise ValueError(f"save_every {self.save_every} must divide steps {self.steps}, or the last step is not kept")
        if self.steps * self.batch_prompts > self.rows * 1000:
            raise ValueError(f"{self.steps} steps of {self.batch_prompts} prompts take {self.rows} rows over 1,000 times")
        return self
