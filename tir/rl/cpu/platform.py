"""verl on a CPU, part 1: the platform plug-in, loaded in every process that imports verl.

verl calls a `PlatformBase` for everything that depends on the accelerator; it has one each for CUDA, ROCm and NPU.
This module adds "cpu" through verl's extension points, without changing verl's code:

    VERL_USE_EXTERNAL_MODULES=tir.rl.cpu.platform     `import verl` imports this module
    VERL_PLATFORM=cpu                                 verl selects the platform registered here

Parts 2 to 4 are `tir.rl.cpu.training` (the engine that trains), `tir.rl.cpu.rollout` (the engine that generates) and
`tir.rl.cpu.client` (its client).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

#: Memory queries and cache calls of `torch.cuda` that verl makes and `torch.cpu` lacks.
_NO_OPERATION = ("empty_cache", "ipc_collect", "set_device", "set_per_process_memory_fraction", "synchronize")
_ZERO = ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved")


def _device_module() -> ModuleType:
    """`torch.cpu` plus the functions of `torch.cuda` that verl calls; those that query memory return 0 bytes."""
    module = ModuleType("tir.rl.cpu_device")
    module.__getattr__ = lambda name: getattr(torch.cpu, name)  # everything else comes from torch.cpu
    for name in _NO_OPERATION:
        setattr(module, name, lambda *_arguments, **_keywords: None)
    for name in _ZERO:
        setattr(module, name, lambda *_arguments, **_keywords: 0)
    module.mem_get_info = lambda *_arguments: (0, 0)
    module.get_device_name = lambda *_arguments: "cpu"
    # Checkpoints contain the state of the accelerator's random generator; here that is torch's CPU generator.
    module.get_rng_state = lambda *_arguments: torch.get_rng_state()
    module.set_rng_state = lambda state, *_arguments: torch.set_rng_state(state)
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """Platform without an accelerator: one device "cpu"; processes communicate through gloo."""

    _module = _device_module()

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._module

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        # verl passes this to `tensor.to(...)`, where an index would mean a CUDA device.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        # verl schedules workers by Ray's resource "GPU"; the launcher declares one (num_gpus=1), although none exists.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        # There is no device memory to share: weights go to the rollout engine through shared memory.
        return False

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def cudart(self) -> None:
        return None


def _one_backend_per_device() -> None:
    """Replace the backend "cpu:gloo,cpu:gloo" by "gloo".

    verl builds "cpu:gloo,{device}:{backend}". On this platform that names the CPU twice, which torch rejects.
    """
    original = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *arguments, **keywords):
        if isinstance(backend, str) and set(backend.split(",")) == {"cpu:gloo"}:
            backend = "gloo"
        return original(backend, *arguments, **keywords)

    torch.distributed.init_process_group = init_process_group


_one_backend_per_device()
