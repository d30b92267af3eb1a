"""Environment variables that every stage sets before it imports a library; the console commands set `ARITHMETIC` alone.

`tir.common.cli` sets them, so they hold in images and without images, and in every process that a stage starts.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

# Variable -> (value, the file of the library that reads it). docs/gpu.md says what each one switches off.
FIXED = {
    # All downloads are made before, by the rules `fetch` and `fetch_model`.
    "HF_HUB_OFFLINE": ("1", "huggingface_hub/constants.py"),
    "HF_DATASETS_OFFLINE": ("1", "datasets/config.py"),
    # Both would compile CUDA code at their first use, and need nvcc.
    "VLLM_USE_FLASHINFER_SAMPLER": ("0", "vllm/envs.py"),
    "VLLM_USE_DEEP_GEMM": ("0", "vllm/envs.py"),
    "VLLM_NO_USAGE_STATS": ("1", "vllm/envs.py"),
}
# Arithmetic of torch on CPUs. A row of a matrix product then depends neither on the number of rows nor on the number of
# threads, and the instructions are those of AVX2 on every machine that has them (docs/reproducibility.md).
ARITHMETIC = {"MKL_CBWR": "AVX2,STRICT", "ATEN_CPU_CAPABILITY": "avx2"}


def prepare() -> None:
    """Set the fixed variables, and move the home directory, where libraries keep their caches, to the node's disk."""
    os.environ |= ARITHMETIC | {name: value for name, (value, _) in FIXED.items()}
    home = scratch_home()
    os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


def job_threads() -> int:
    """Number of cores of the job, which Snakemake states as OMP_NUM_THREADS; else those that this process may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def scratch_home() -> Path:
    """A directory of this user in $TMPDIR, or /tmp. Jobs on one node share it, so that each kernel is compiled once.

    The user's own home is often on a shared file system, and is missing in images (`--no-home`). If another user has
    taken the name, this process gets a directory of its own: code is loaded from these caches.
    """
    home = Path(tempfile.gettempdir(), f"tir-home-{os.getuid()}")
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return home
    return Path(tempfile.mkdtemp(prefix=f"{home.name}-"))
