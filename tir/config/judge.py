"""The judge of answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model, Name, Share, operational


class Judge(Model):
    """A language model for answers that rules cannot decide (the WebThinker/Tool-Star judge; paper section 4)."""

    kind: Literal["server", "rules"] = Field("server", description="server: query a model; rules: use no judge")
    engine: Literal["vllm", "transformers"] = Field("vllm", description="engine of the server that a job starts")
    model: Name = Field("judge", description="name of the model under `models`, or sft")
    name: str = Field("Qwen2.5-72B-Instruct", description="name of the model on the server; part of every cache key")
    gpus: int = Field(4, ge=1, le=64, description="GPUs for tensor parallelism")
    decides: bool = Field(True, description="verdicts determine `correct`; false: store them, but let rules decide")
    rule_first: bool = Field(True, description="judge only answers that rules cannot decide")
    audit: int = Field(20, ge=0, description="items per file that rules decided and the judge reads too")
    choices: bool = Field(
        True, description="restrict replies to the two verdicts by structured outputs (vLLM); false: parse the reply"
    )
    seed: int = Field(0, ge=0, description="seed of each request; the temperature is 0")
    max_tokens: int = Field(16, ge=1, le=4096, description="maximum length of a reply, tokens")
    attempts: int = Field(5, ge=1, le=100, description="maximum requests per answer")
    concurrency: int = operational(50, ge=1, le=10_000, description="concurrent requests")
    timeout_s: float = operational(120.0, gt=0, le=3600, description="seconds to wait for a reply")
    max_unreadable: Share = Field(0.0, description="maximum fraction of replies without a verdict; they are reported")
    min_calibration: Share = Field(0.8, description="minimum accuracy on the calibration set, as a fraction")
