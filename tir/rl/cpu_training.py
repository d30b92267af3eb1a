"""verl on a CPU, part 2: register verl's FSDP2 engine for the device "cpu".

verl registers `FSDPEngineWithLMHead` for CUDA and NPU only; the class itself runs on a CPU (FSDP2 does, FSDP1 wants an
accelerator). Loaded through `actor_rollout_ref.model.external_lib`, which verl imports before it looks an engine up; the
platform module cannot do it, because it is imported in the middle of `import verl`.
"""

from __future__ import annotations

from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(FSDPEngineWithLMHead)
