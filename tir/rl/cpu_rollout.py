"""verl on a CPU, part 3: what verl runs inside vLLM's worker process, adapted to vLLM's CPU build.

Selected by `rollout.engine_kwargs.vllm.worker_extension_cls`, which is vLLM's own extension point and overrides verl's
choice. Two adaptations, both about replacing weights while the engine lives.
"""

from __future__ import annotations

import contextlib
from multiprocessing import shared_memory

from tir.rl.weights import WorkerExtension


def _keep_linear_weights() -> None:
    """Keep a linear layer's weight after vLLM has packed it for the CPU.

    vLLM's CPU build replaces the parameter by an empty one once it has a packed copy, so `load_weights` would have nowhere
    to write to. With the parameter kept, verl's update writes into it and then runs `process_weights_after_loading`, which
    packs the new values. Costs one copy of the model's weights in memory.
    """
    from vllm.model_executor.layers import utils

    original = utils.dispatch_cpu_unquantized_gemm
    utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: original(layer, remove_weight=False)


def _close_with_views() -> None:
    """Let a shared-memory segment be closed while tensors still look into it.

    verl moves the received bytes to the device, which copies them on an accelerator; on a CPU `.to("cpu")` returns the same
    memory, so views are alive when verl closes the segment and Python raises `BufferError`. The mapping is then released
    when the last view goes away; the sender unlinks the name, so nothing is left behind.
    """
    original = shared_memory.SharedMemory.close

    def close(self: shared_memory.SharedMemory) -> None:
        with contextlib.suppress(BufferError):
            original(self)

    shared_memory.SharedMemory.close = close


class CpuWorkerExtension(WorkerExtension):
    """The worker extension with the adaptations above in force before the first layer is built."""

    def __new__(cls, **keywords):
        _keep_linear_weights()
        _close_with_views()
        return super().__new__(cls, **keywords)
