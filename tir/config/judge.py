"""The judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.schema import Model, Name, Share, operational


class Judge(Model):
    """A language model that reads what rules cannot settle (the WebThinker/Tool-Star judge; paper section 4)."""

    kind: Literal["server", "rules"] = Field("server", description="rules: nobody is asked, and tables say so")
    engine: Literal["vllm", "transformers"] = Field("vllm", description="server a job starts for itself")
    model: Name = Field("judge", description="directory under models/ that is served")
    name: str = Field("Qwen2.5-72B-Instruct", description="served model name; part of every cache key")
    gpus: int = Field(4, ge=1, le=64, description="tensor parallelism")
    decides: bool = Field(True, description="verdicts make `correct`; false stores them and lets the rules decide")
    rule_first: bool = Field(True, description="ask only about answers that rules do not settle")
    audit: int = Field(20, ge=0, description="items per file that rules settled and the judge reads all the same")
    choices: bool = Field(True, description="demand one of two words by structured outputs (vLLM); else trust the reply")
    seed: int = Field(0, ge=0)
    max_tokens: int = Field(16, ge=1, le=4096)
    attempts: int = Field(5, ge=1, le=100, description="requests for one answer")
    concurrency: int = operational(50, ge=1, le=10_000, description="requests in flight")
    timeout_s: float = operational(120.0, gt=0, le=3600, description="seconds to wait for a reply")
    max_unreadable: Share = Field(0.0, description="share of replies that may be no verdict; they are reported")
    min_calibration: Share = Field(0.8, description="share of the calibration set a judge must get right")
