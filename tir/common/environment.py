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


def _mkl_mode() -> str:
    """MKL's strict mode with the widest instructions for which it was seen to keep its promise on this processor."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        first = ""
    needed = {"GenuineIntel", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    return "AVX512,STRICT" if needed <= set(first.split()) else "AVX2,STRICT"


# Arithmetic of torch on CPUs: a row of a matrix product then depends neither on the number of rows nor on the number of
# threads (docs/reproducibility.md). TIR_MKL_CBWR=AVX2,STRICT gives the same bytes on processors of different kinds.
ARITHMETIC = {"MKL_CBWR": os.environ.get("TIR_MKL_CBWR") or _mkl_mode(), "ATEN_CPU_CAPABILITY": "avx2"}


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
