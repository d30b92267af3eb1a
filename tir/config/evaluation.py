"""Trace generation and its inference-time helpers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model, operational
from tir.config.tools import Tools


class EngineConfig(Model):
    """The generation engine of evaluation."""

    kind: Literal["vllm", "transformers"] = Field("vllm", description="generation library; transformers needs no GPU")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="data type of weights and activations"
    )
    max_batch: int = Field(64, ge=1, le=65536, description="transformers: largest batch")
    batch_invariant: bool = Field(
        False,
        description="vLLM on a GPU: kernels whose result for a request does not depend on the others; slower",
    )


class HelperConfig(Model):
    """A helper that queries another model, on the site's server (`site.helper_endpoint`) or one that a job starts."""

    model: str = Field(
        description="a name under `models`, or the model's name on the site's server; upstream: Qwen2.5-72B-Instruct"
    )
    uses: int = Field(1, ge=1, le=10, description="maximum uses per trajectory; upstream 1")
    max_tokens: int = Field(2048, ge=16, le=100_000, description="maximum length of a reply, tokens")
    timeout_s: float = operational(120.0, gt=0, le=3600, description="seconds to wait for a reply")


class RefinerConfig(HelperConfig):
    """The chain refiner: rewrites a response that has grown too long."""

    at_tokens: int = Field(
        3072, ge=16, description="response length that triggers it, tokens; upstream: 8192, prompt included"
    )


class RollbackConfig(Model):
    """Rollback: deletes a failed call from its line on; the model continues from the text before it."""

    uses: int = Field(1, ge=1, le=10, description="maximum uses per trajectory; upstream 1")
    temperature: float = Field(
        0.7, gt=0, le=10, description="temperature of the next turn; greedy decoding would repeat the call"
    )


class HelpersConfig(Model):
    """Inference-time helpers of Tool-Star; each is off unless it is set. Training uses none."""

    debugger: HelperConfig | None = Field(None, description="repairs code that failed and runs it again")
    rollback: RollbackConfig | None = Field(None, description="deletes a failed call and lets the model continue")
    refiner: RefinerConfig | None = Field(None, description="rewrites a response that has grown too long")
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="server that a job starts for a helper's model where the site has none"
    )
    gpus: int = Field(4, ge=1, le=64, description="GPUs of each such server, beside the one of the evaluated model")


class Evaluation(Model):
    """Trace generation."""

    engine: EngineConfig = Field(EngineConfig(), description="generation engine")
    temperature: float = Field(0.0, ge=0, le=10, description="sampling temperature; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling: probability mass of the tokens to sample from")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="repetition penalty; upstream's evaluation: 1.1")
    samples: int = Field(1, ge=1, le=10_000, description="trajectories per item")
    concurrency: int = Field(
        64,
        ge=1,
        le=65536,
        description="concurrent trajectories; on GPUs rounding depends on it, unless the engine is batch_invariant",
    )
    max_response_tokens: int = Field(
        4096, ge=16, description="maximum response length in tokens, tool results included"
    )
    prompt_newlines: bool = Field(False, description="a line break before and after the system prompt, as upstream")
    golds: Literal["best", "last"] = Field(
        "best",
        description="QA with several gold answers: score by the best match, or by the last one (upstream's evaluation)",
    )
    seed: int = Field(0, ge=0, description="seed from which the seed of each trajectory is derived")
    helpers: HelpersConfig = Field(HelpersConfig(), description="inference-time helpers")
    tools: Tools | None = Field(None, description="keys of `tools` that differ in evaluation; null: none")
