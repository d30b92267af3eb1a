"""A server of the job's own for a helper's model, where the site keeps none."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tir.common.errors import ConfigError, HelperUnavailable
from tir.common.model_server import command
from tir.common.sidecar import Sidecar

if TYPE_CHECKING:
    from tir.config.evaluation import HelpersConfig

_GRACE_S, _READY_S = 10.0, 1800.0


@contextlib.contextmanager
def own_servers(
    settings: HelpersConfig, models: Mapping[str, Path], log: str | os.PathLike
) -> Iterator[dict[str, str]]:
    """Start a server for each model; yield their addresses by name, ending in `/v1`.

    Args:
        settings: the section `evaluation.helpers`: which server, and GPUs of each.
        models: served name -> model directory.
        log: start of the log files' names.

    Raises:
        ConfigError: the job has too few GPUs. The first one belongs to the engine.
        HelperUnavailable: a server did not start; shows the end of its log.
    """
    gpus = visible_gpus() if settings.engine == "vllm" else []
    with contextlib.ExitStack() as stack:
        servers: dict[str, Sidecar] = {}
        for number, (name, directory) in enumerate(sorted(models.items())):
            devices = gpus[1:][number * settings.gpus :][: settings.gpus]
            if settings.engine == "vllm" and len(devices) < settings.gpus:
                raise ConfigError(
                    "too few GPUs for a helper's server",
                    where="evaluation.helpers.gpus",
                    why=f"the job has {len(gpus)}; engine: 1, {len(models)} servers: {settings.gpus} each",
                    remedy=f"set-resources: {{traces: {{gres: \"'gpu:TYPE:{1 + len(models) * settings.gpus}'\"}}}}  "
                    "# in the profile; or site: {helper_endpoint: http://HOST:PORT/v1}",
                )
            servers[name] = _server(settings, directory, name, devices, f"{log}.{name}")
            stack.callback(servers[name].stop)
            servers[name].start()
        deadline = time.monotonic() + _READY_S
        yield {name: f"{server.wait(deadline)}/v1" for name, server in servers.items()}


def _server(settings: HelpersConfig, directory: Path, name: str, devices: Sequence[str], log: str) -> Sidecar:
    def fault(why: str) -> HelperUnavailable:
        return HelperUnavailable("a helper's server does not run", where=str(directory), why=why, remedy=f"see {log}")

    def line(port: int) -> list[str]:
        own = [f"CUDA_VISIBLE_DEVICES={','.join(devices)}"] if devices else []
        return [*(["env", *own] if own else []), *command(settings.engine, directory, name, port, settings.gpus, None)]

    return Sidecar(line, fault, log, _GRACE_S)


def visible_gpus() -> list[str]:
    """Names of the job's GPUs as `CUDA_VISIBLE_DEVICES` has them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name for name in stated.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
