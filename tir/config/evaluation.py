"""Trace generation and its helpers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.schema import Model, operational
from tir.config.tools import Tools


class EngineConfig(Model):
    """The generation engine of evaluation."""

    kind: Literal["vllm", "transformers"] = "vllm"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_batch: int = Field(64, ge=1, le=65536, description="rows decoded at once (transformers)")


class HelperConfig(Model):
    """A helper that asks another model, through an OpenAI-compatible server (the profile's `site.helper_endpoint`)."""

    model: str = Field(description="the server's name of the model; upstream's debugger Qwen2.5-72B-Instruct")
    uses: int = Field(1, ge=1, le=10, description="interventions per trajectory; upstream 1")
    max_tokens: int = Field(2048, ge=16, le=100_000, description="longest reply")
    timeout_s: float = operational(120.0, gt=0, le=3600, description="seconds to wait for a reply")


class RefinerConfig(HelperConfig):
    """The chain refiner: rewrites a response that has grown too long."""

    at_tokens: int = Field(3072, ge=16, description="response tokens that call for it; upstream 8192 of the whole sequence")


class RollbackConfig(Model):
    """Rollback: a failed call is taken back to the line before it, and the model goes on from there."""

    uses: int = Field(1, ge=1, le=10, description="per trajectory; upstream 1")
    temperature: float = Field(0.7, gt=0, le=10, description="of the turn after; greedy decoding would write the same again")


class HelpersConfig(Model):
    """Inference-time helpers of Tool-Star, each off unless it is named; never used in training."""

    debugger: HelperConfig | None = Field(None, description="repairs code that failed and runs it again")
    rollback: RollbackConfig | None = None
    refiner: RefinerConfig | None = None


class Evaluation(Model):
    """Trace generation."""

    engine: EngineConfig = EngineConfig()
    temperature: float = Field(0.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="upstream evaluation uses 1.1")
    samples: int = Field(1, ge=1, le=10_000, description="trajectories per item")
    concurrency: int = Field(64, ge=1, le=65536, description="trajectories in flight; an engine's rounding depends on it")
    max_response_tokens: int = Field(4096, ge=16)
    prompt_newlines: bool = Field(False, description="a line break before and after the system prompt, as upstream")
    golds: Literal["best", "last"] = Field("best", description="of several gold answers to a question in words; upstream's evaluation: last")
    seed: int = Field(0, ge=0)
    helpers: HelpersConfig = HelpersConfig()
    tools: Tools | None = Field(None, description="where evaluation's tools differ from `tools`; null: nowhere")
