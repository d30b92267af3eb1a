"""Reinforcement learning and its reward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tir.common.schema import Model, operational
from tir.config.faults import Fault


class RewardRule(Model):
    """Rule-based reward."""

    mode: Literal["verified", "upstream_f1"] = Field(
        "verified", description="verified: equivalence for math, token F1 for QA; upstream_f1: token F1 for both"
    )
    both_tools_bonus: float = Field(
        0.1, ge=0, le=1, description="bonus if both tools were executed and the score is above 0"
    )


class Rl(Model):
    """Reinforcement learning with verl (paper sections 4 and 5.5)."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field([1, 2, 3], min_length=1, description="one run per arm and seed")
    rows: int = Field(1000, ge=1, description="training rows, from the head of the file")
    steps: int = Field(30, ge=1, le=100_000, description="training steps")
    batch_prompts: int = Field(32, ge=1, description="prompts per step")
    mini_batch_prompts: int = Field(32, ge=1, description="prompts per optimiser update")
    group_size: int = Field(4, ge=2, le=1024, description="rollouts per prompt")
    zero_variance_groups: Literal["keep", "drop", "resample"] = Field(
        "keep",
        description="groups whose rewards are all equal, which have no advantage in GRPO. keep: train on them; drop: a "
        "step trains on the other groups; resample: replace them by groups of further prompts (DAPO)",
    )
    learning_rate: float = Field(1e-6, gt=0, lt=1, description="learning rate of AdamW, constant")
    kl_coef: float = Field(0.0, ge=0, le=10, description="coefficient of the KL loss against the starting policy")
    entropy_coef: float = Field(0.001, ge=0, le=1, description="coefficient of the entropy bonus in the loss")
    clip_ratio: float = Field(0.2, gt=0, lt=1, description="PPO's clip range of the probability ratio around 1")
    temperature: float = Field(1.0, gt=0, le=10, description="sampling temperature in training; validation is greedy")
    track_kl: bool = Field(False, description="log the KL divergence from the starting policy; needs a reference model")
    old_log_probs: Literal["recompute", "rollout"] = Field(
        "recompute", description="old log-probabilities: recomputed by the trainer, or those of the rollout engine"
    )
    micro_batch_tokens: int = Field(
        0, ge=0, description="tokens per forward pass and device; 0: twice the maximum of prompt plus response"
    )
    max_prompt_tokens: int = Field(
        1536, ge=16, description="maximum prompt length in tokens; rows with a longer prompt are dropped"
    )
    max_overlong: float = operational(
        0.1,
        ge=0,
        lt=1,
        description="largest share of rows that may be dropped for their prompts before a run is refused",
    )
    max_response_tokens: int = Field(
        4096, ge=16, description="maximum response length in tokens, tool results included"
    )
    validate_every: int = Field(15, ge=1, description="steps between validations; there is also one before training")
    save_every: int = Field(15, ge=1, description="steps between checkpoints")
    processes: int = operational(
        0, ge=0, le=1024, description="number of data-parallel processes; 0: one per GPU, one on a CPU"
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="data type of the computation; master weights are fp32"
    )
    full_determinism: bool = Field(
        False,
        description="GPUs: verl's deterministic kernels and vLLM's batch-invariant mode, so that runs on equal "
        "hardware are equal; slower. On a CPU they always are",
    )
    reward: RewardRule = Field(RewardRule(), description="reward of a trajectory")
    engine: dict[str, bool | int | float | str] = Field(
        default={}, description="options of the rollout engine, by their names in vLLM"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise Fault(
                (),
                f"{value}: duplicate seeds; a run that is counted twice has no variance between seeds",
                paste=((), list(dict.fromkeys(value))),
            )
        return value

    @model_validator(mode="after")
    def _divides(self) -> Rl:
        if self.batch_prompts % self.mini_batch_prompts:
            raise ValueError(
                f"mini_batch_prompts {self.mini_batch_prompts} must divide batch_prompts {self.batch_prompts}"
            )
        if self.batch_prompts > self.rows:
            raise ValueError(f"batch_prompts {self.batch_prompts} must not exceed rows {self.rows}")
        if self.steps % self.save_every:
            raise ValueError(
                f"save_every {self.save_every} must divide steps {self.steps}, or the last step is not saved"
            )
        if self.steps * self.batch_prompts > self.rows * 1000:
            raise ValueError(
                f"{self.steps} steps of {self.batch_prompts} prompts use each of {self.rows} rows over 1,000 times; "
                "use more rows or fewer steps"
            )
        return self
