"""Environment variables of verl's processes."""

from __future__ import annotations

from tir.common.environment import ARITHMETIC
from tir.rl.run import RlRun, RunFiles

# verl sets these in a worker that has started (`verl.workers.engine.utils.enable_full_determinism`). cuBLAS and NCCL
# read them once, perhaps before.
_DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "NCCL_DETERMINISTIC": "1",
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "Simple",
    "VERL_DISABLE_FLASH_ATTN_CE": "1",
}


def environment(run: RlRun, files: RunFiles, threads: int) -> dict[str, str]:
    """Environment variables for verl's processes, in addition to the caller's; `threads`: number of usable cores."""
    modules = ["tir.rl.loopback", *(["tir.rl.cpu.platform"] if run.device == "cpu" else []), *run.shaping]
    scratch = str(files.scratch)
    values = {
        "TIR_RUN_DIRECTORY": str(files.directory),
        "TIR_SCRATCH": scratch,
        "TIR_SOURCE_MODEL": str(files.model),
        "HYDRA_FULL_ERROR": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # Two runs on one machine must not share caches, tokens, sockets or lock files.
        "TMPDIR": scratch,
        "HF_DATASETS_CACHE": f"{scratch}/datasets",
        "VLLM_RPC_BASE_PATH": scratch,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{scratch}/token",
        # Start no workers in advance: each takes 1.5 s to import Ray, and verl's actors cannot use them, because they
        # have their own environment variables.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # A run uses one machine, so its servers listen on the loopback address only: Ray's and verl's (with this value
        # Ray's address is the loopback one), vLLM's, gloo's and NCCL's; for torch's stores see `tir.rl.loopback`.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        # Ray and vLLM give their processes titles. By default a title overwrites the environment that other processes
        # see, by which `tir.rl.processes` finds the processes of a run.
        "SPT_NOENV": "1",
        # Normal priority for Ray's workers; Ray's default is niceness 15.
        "RAY_worker_niceness": "0",
        "VERL_USE_EXTERNAL_MODULES": ",".join(modules),
    }
    if run.device == "cpu":
        return values | _cpu_environment(files, threads)
    return values | _cuda_environment(run, threads)


def _cuda_environment(run: RlRun, threads: int) -> dict[str, str]:
    # Per GPU there is a trainer, a server, its engine and an agent loop. Else each would start a thread for every core.
    each = str(max(1, threads // (4 * run.processes)))
    return {
        # Else each of some 35 processes would call nvidia-smi.
        "VERL_PLATFORM": "nvidia",
        "OMP_NUM_THREADS": each,
        "MKL_NUM_THREADS": each,
        "OPENBLAS_NUM_THREADS": each,
        **(_DETERMINISTIC if run.rl.full_determinism else {}),
    }


def _cpu_environment(files: RunFiles, threads: int) -> dict[str, str]:
    return {
        "VERL_PLATFORM": "cpu",
        # The driver must have no threads when it forks; each fork then uses TIR_THREADS threads.
        "TIR_FORK_ADDRESS": str(files.scratch / "fork"),
        "TIR_FORK_PYTHON": str(files.python),
        "TIR_THREADS": str(threads),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Idle threads sleep instead of spinning, because there are more processes than cores.
        "OMP_WAIT_POLICY": "passive",
        # verl sets these for Ray's workers, which read them at import; forks have imported the modules before.
        "TRANSFER_QUEUE_ENABLE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_DISABLE_COMPILE_CACHE": "1",
        # vLLM would compile its log-probability kernel for 20 s, longer than it saves with a tiny model.
        "TORCH_COMPILE_DISABLE": "1",
        # vLLM's CPU build uses the executor "uni" only with this setting.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        **ARITHMETIC,
    }
