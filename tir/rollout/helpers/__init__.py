r"""Tool-Star's inference-time helpers; each is off by default (upstream: `evaluation/tools`).

    debugger   a larger model repairs code that failed; the repaired code runs in the same sandbox
    rollback   a call that still fails is removed, with its line; the model continues before it
    refiner    another model rewrites a response that has become too long

Differences from upstream: the refiner keeps the prompt (upstream's replaces it too, with the chat template), and after
a rollback the next turn is sampled with a temperature (with greedy decoding the model would write the same call again).
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tir.common.errors import HelperUnavailable
from tir.rollout.helpers.base import Helpers

if TYPE_CHECKING:
    from tir.config.evaluation import HelpersConfig

OWN_SERVERS = f"{__package__}.server"  # imported by name, so that its code decides trajectories only where it is used


def models_asked(settings: HelpersConfig) -> list[str]:
    """Names of the models that the configured helpers ask."""
    return sorted({helper.model for helper in (settings.debugger, settings.refiner) if helper})


@contextlib.contextmanager
def make_helpers(
    settings: HelpersConfig, endpoint: str, models: str | os.PathLike = "models", log: str | os.PathLike = "helpers.log"
) -> Iterator[Helpers | None]:
    """The configured helpers, or None if there are none.

    Args:
        settings: the section `evaluation.helpers`.
        endpoint: base address of an OpenAI-compatible server (with its `/v1`), or `none`: a server is started for each
            helper's model.
        models: directory of the models, by name.
        log: start of the names of those servers' log files.

    Raises `ConfigError` or `HelperUnavailable` if a server cannot be started.
    """
    names = models_asked(settings)
    if not (names or settings.rollback):
        yield None
        return
    from tir.common.http import Service
    from tir.common.keys import HELPER, read_key
    from tir.rollout.helpers.toolstar import ToolStarHelpers

    with contextlib.ExitStack() as stack:
        addresses = dict.fromkeys(names, endpoint)
        if names and endpoint == "none":
            own_servers = importlib.import_module(OWN_SERVERS).own_servers
            served = {name: Path(models) / name for name in names}
            addresses = stack.enter_context(own_servers(settings, served, log))
        timeout_s = max([helper.timeout_s for helper in (settings.debugger, settings.refiner) if helper], default=60.0)
        key = read_key(HELPER)
        services = {
            name: Service(address, HelperUnavailable, "the helpers' model", key=key, timeout_s=timeout_s)
            for name, address in addresses.items()
        }
        yield ToolStarHelpers(services, settings)
