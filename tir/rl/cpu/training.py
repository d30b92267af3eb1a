"""verl on a CPU, part 2: register verl's FSDP2 engine for the device "cpu", and keep the reference model there.

verl registers `FSDPEngineWithLMHead` for CUDA and NPU only, although the class runs on a CPU with FSDP2 (FSDP1 requires
an accelerator). `tir.rl.plugin` imports this module: verl imports the plugin before it looks up an engine. The platform
module cannot import it, because it runs in the middle of `import verl`.

verl keeps the weights of the reference model (`rl.track_kl`, `rl.kl_coef`) in pinned memory, which only a machine with
an accelerator can allocate.
"""

from __future__ import annotations

from torch.distributed.fsdp import CPUOffloadPolicy
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


def _not_pinned(pin_memory: bool = True) -> CPUOffloadPolicy:
    return CPUOffloadPolicy(pin_memory=False)


transformer_impl.CPUOffloadPolicy = _not_pinned
EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(FSDPEngineWithLMHead)
