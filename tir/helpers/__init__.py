r"""Tool-Star's inference-time helpers, each off unless it is configured (UPSTREAM `evaluation/tools`).

    debugger   a larger model repairs code that failed; the repaired code runs in the same sandbox
    rollback   a call that still fails is taken back to the line before it; the model goes on from there
    refiner    a response that has grown too long is rewritten shorter by another model

Where upstream's versions lose the chat template (the refiner replaces prompt and all) or cannot change anything
(rollback under greedy decoding), ours keep the prompt, and draw the next turn at a temperature.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tir.errors import ConfigError, HelperUnavailable
from tir.helping import Helpers

KEY_VARIABLE = "TIR_HELPER_KEY"


@contextlib.contextmanager
def make_helpers(settings: Mapping[str, Any], endpoint: str) -> Iterator[Helpers | None]:
    """The configured helpers, or None if there are none.

    Args:
        settings: a `tir.config.HelpersConfig` as JSON.
        endpoint: base address of an OpenAI-compatible server (with its `/v1`), or `none`.

    Raises `ConfigError` if a helper needs a server and there is none.
    """
    wanted = {name: value for name, value in settings.items() if value}
    asking = sorted({"debugger", "refiner"} & set(wanted))
    if asking and endpoint == "none":
        raise ConfigError("no server for a helper", where=f"evaluation.helpers.{asking[0]}",
                          why="it asks another model", remedy="site: {helper_endpoint: http://HOST:PORT/v1}  # in the profile")
    if not wanted:
        yield None
        return
    from tir.helpers.toolstar import ToolStarHelpers
    from tir.service import Service

    timeout_s = max([wanted[name]["timeout_s"] for name in asking], default=60.0)
    service = Service(endpoint, HelperUnavailable, "the helpers' model", key=os.environ.get(KEY_VARIABLE), timeout_s=timeout_s)
    yield ToolStarHelpers(service, **wanted)
