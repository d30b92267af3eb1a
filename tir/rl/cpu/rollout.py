"""verl on a CPU, part 3: verl's extension of vLLM's worker, with three changes to vLLM's CPU build.

Torch computes the products, so that weights can be updated and results do not depend on the batch. Shared memory can be
closed while tensors are views of it. The engine gets half of the run's threads.

Selected by vLLM's option `rollout.engine_kwargs.vllm.worker_extension_cls`, which takes precedence over verl's class.
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import shared_memory

from tir.rl.weights import WorkerExtension


def _linear_of_torch() -> None:
    """Multiply matrices with torch, which uses MKL, instead of with weights that oneDNN has packed.

    vLLM's CPU build packs a weight and then replaces the parameter by an empty one, so that `load_weights` could not
    update it. With MKL, in the mode of `tir.common.environment.ARITHMETIC`, a token's result does not depend on the
    other tokens of the batch. For a tiny model it also takes a third less CPU time.
    """
    from vllm.model_executor.layers import utils

    from tir.common.linear import linear

    def dispatch(layer, remove_weight: bool) -> None:
        layer.cpu_linear = linear

    utils.dispatch_cpu_unquantized_gemm = dispatch


def _close_with_views() -> None:
    """Ignore the `BufferError` of closing a shared-memory segment while tensors are views of it.

    verl moves the received bytes to the device. On an accelerator that copies them; on a CPU `.to("cpu")` returns the
    same memory, so views exist when verl closes the segment. The memory is released with the last view, and the sender
    unlinks the name, so nothing remains.
    """
    original = shared_memory.SharedMemory.close

    def close(self: shared_memory.SharedMemory) -> None:
        with contextlib.suppress(BufferError):
            original(self)

    shared_memory.SharedMemory.close = close


def _half_of_the_threads() -> None:
    """Leave the other threads to what runs while the engine generates: agent loop, tools, servers.

    Also, a second thread of a small model mostly waits: on two cores it took two fifths of the engine's CPU time.
    """
    import torch

    if "TIR_THREADS" in os.environ:
        torch.set_num_threads(max(1, int(os.environ["TIR_THREADS"]) // 2))


class CpuWorkerExtension(WorkerExtension):
    """The worker extension; applies the three changes before vLLM builds the first layer."""

    def __new__(cls, **keywords):
        _half_of_the_threads()
        _linear_of_torch()
        _close_with_views()
        return super().__new__(cls, **keywords)
