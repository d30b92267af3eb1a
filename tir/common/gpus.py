"""The GPUs of this job."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

from tir.common.errors import InfrastructureFault


def processes(stated: int, device: str) -> int:
    """Number of data-parallel processes of a training stage; 0: one per GPU of the job, one on a CPU."""
    return stated or (1 if device == "cpu" else len(memory_of_gpus()))


@cache
def memory_of_gpus() -> list[float]:
    """Bytes of memory of each GPU, read in another process, because torch would occupy the GPUs from this one.

    Raises:
        InfrastructureFault: torch finds no GPU.
    """
    code = "import torch.cuda as c; print(*(c.get_device_properties(i).total_memory for i in range(c.device_count())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sizes = [float(word) for word in done.stdout.split()]
    if not sizes:
        raise InfrastructureFault(
            "no GPU found",
            where=f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}",
            why=(done.stderr.strip().splitlines() or ["torch finds none"])[-1],
            remedy="nvidia-smi  # on this node; GPUs are requested in the profile: set-resources, gres",
        )
    return sizes
