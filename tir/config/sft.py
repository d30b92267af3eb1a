"""Supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model, Share, operational


class Sft(Model):
    """Supervised fine-tuning.

    The defaults are the paper's recipe (section 4, appendices B and C.2): full fine-tuning with 128 rows per step. How
    a step is divided among GPUs and forward passes follows from the job's GPUs.
    """

    max_rows: int | None = Field(None, ge=10, description="number of rows, from the head of the file; null: all")
    layout: Literal["upstream_user", "system_role"] = Field(
        "upstream_user", description="turn of the instruction: user, as upstream in SFT, or system, as in RL"
    )
    mask_results: bool = Field(False, description="no loss on tool results; upstream trains on them")
    holdout: Share = Field(0.02, description="fraction of rows held out for evaluation")
    epochs: int = Field(3, ge=1, le=100, description="number of epochs; a checkpoint is saved after each")
    batch_rows: int = Field(
        128, ge=1, le=65_536, description="rows per optimiser step (effective batch), on any number of GPUs"
    )
    learning_rate: float = Field(7e-6, gt=0, lt=1, description="peak learning rate, after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="schedule of the learning rate after the warm-up"
    )
    warmup_ratio: Share = Field(0.1, description="fraction of the optimiser steps for the warm-up")
    weight_decay: float = Field(0.1, ge=0, le=1, description="weight decay of AdamW")
    grad_clip: float = Field(1.0, gt=0, le=1000, description="maximum norm of the gradient")
    cutoff_tokens: int = Field(
        4096, ge=16, le=1_000_000, description="maximum length of a row in tokens; longer rows are truncated"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="data type of the computation")
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = Field(
        "zero2", description="ZeRO stage of DeepSpeed; null: no DeepSpeed; ignored on a CPU"
    )
    attention: Literal["fa2", "sdpa", "eager"] = Field(
        "sdpa",
        description="sdpa: PyTorch's attention, which includes FlashAttention-2; fa2: the flash-attn package; "
        "both take rows that are laid end to end; eager: without fused kernels, rows are padded",
    )
    logging_steps: int = Field(1, ge=1, description="steps between log records")
    seed: int = Field(42, ge=0, description="seed of hold-out, data order and dropout")
    full_determinism: bool = Field(
        False,
        description="GPUs: the Trainer's deterministic kernels, so that runs on equal hardware are equal; slower. On a "
        "CPU they always are",
    )
    processes: int = operational(
        0, ge=0, le=1024, description="number of data-parallel processes; 0: one per GPU, one on a CPU"
    )
    micro_batch_tokens: int = operational(
        0, ge=0, description="tokens per forward pass and GPU; 0: as many as its memory holds, 8,192 on a CPU"
    )
    gradient_checkpointing: bool | None = operational(
        None, description="recompute activations instead of storing them; null: only if memory requires it"
    )
    stall_s: int = operational(
        3600, ge=10, description="seconds without a finished step after which the run ends with an error"
    )
