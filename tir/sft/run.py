"""Settings of one fine-tuning run: the section `sft` and two values from other sections."""

from __future__ import annotations

from dataclasses import dataclass

from tir.common import gpus
from tir.common.schema import Device
from tir.config.sft import Sft


@dataclass(frozen=True)
class SftRun:
    """Settings of one run.

    Attributes:
        sft: the section `sft`.
        device: cuda or cpu.
        leading_space: `tools.leading_space`: a space before `<result>`; has an effect with `sft.mask_results`.
    """

    sft: Sft
    device: Device
    leading_space: bool

    @property
    def processes(self) -> int:
        """Number of data-parallel processes: one per GPU of the job, one on a CPU."""
        return gpus.processes(self.sft.processes, self.device)

    @property
    def packed(self) -> bool:
        """Whether the rows of a forward pass are laid end to end; else they are padded."""
        return self.sft.attention != "eager"

    @property
    def deepspeed(self) -> str | None:
        """ZeRO stage of DeepSpeed, or None; a CPU has none."""
        return None if self.device == "cpu" else self.sft.deepspeed
