"""One reinforcement learning run: its settings (sections of the configuration, arm and seed) and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tir.common import gpus
from tir.common.schema import Device
from tir.config.rl import Rl
from tir.config.tools import Tools


@dataclass(frozen=True)
class RlRun:
    """Settings of one run. The runs of a study differ only in `estimator`, `coefficients` and `seed`.

    Attributes:
        rl: the section `rl`; a run ignores its list `seeds`.
        tools: the section `tools`.
        device: cuda, or cpu (see `tir.rl.cpu.platform`).
        estimator: estimator of the arm.
        coefficients: fields of `aspo.ASPOConfig` for `aspo`; empty for `grpo`.
        seed: seed of data order, sampling and mini-batches.
    """

    rl: Rl
    tools: Tools
    device: Device
    estimator: Literal["grpo", "aspo"]
    coefficients: Mapping[str, Any]
    seed: int

    @property
    def shaping(self) -> list[str]:
        """Dotted name of the arm's module, or none for verl's own GRPO.

        Composed, because a literal name would count as an import (`tir.workflow.digests.code`), also for GRPO's arms.
        """
        return [] if self.estimator == "grpo" else [f"{self.estimator}.integration"]

    @property
    def processes(self) -> int:
        """Number of data-parallel processes: one per GPU of the job, one on a CPU."""
        return gpus.processes(self.rl.processes, self.device)

    @property
    def max_tokens(self) -> int:
        """Maximum length of prompt and response, in tokens."""
        return self.rl.max_prompt_tokens + self.rl.max_response_tokens

    @property
    def micro_batch_tokens(self) -> int:
        """Maximum number of tokens per forward pass and device."""
        return self.rl.micro_batch_tokens or 2 * self.max_tokens


@dataclass(frozen=True)
class RunFiles:
    """Paths of a run.

    Attributes:
        model: Hugging Face directory of the starting policy.
        train, validation: parquet written by `prepare_rows`.
        loop: YAML that registers the agent loop (see `tir.rl.agent_loop`).
        directory: the run's directory.
        scratch: directory with a short path on a local disk, which only this user can enter; deleted after the run.
    """

    model: Path
    train: Path
    validation: Path
    loop: Path
    directory: Path
    scratch: Path

    @property
    def ray(self) -> Path:
        """Ray's directory. Ray lets every user write to it, so it holds nothing else, and others cannot reach it."""
        return self.scratch / "ray"

    @property
    def python(self) -> Path:
        """Executable that starts forks instead of Python (see `tir.rl.cpu.forkserver`)."""
        return self.scratch / "python"

    @property
    def checkpoints(self) -> Path:
        """Directory of verl's checkpoints `global_step_{N}`."""
        return self.directory / "checkpoints"
