"""Inputs of a run of RL, the tools that they allow, and the identity of the run, by which it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tir.common.records import file_digest
from tir.config.tools import Tools
from tir.rl.run import RlRun
from tir.tools.registry import files_of, kind, modules
from tir.workflow.digests import code_digest

# Modules whose code and imports determine the results: not the launcher's, which only starts and monitors verl.
_VERL_CODE = ("tir.rl.agent_loop", "tir.rl.environment", "tir.rl.overrides")


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run.

    Attributes:
        model: Hugging Face directory of the starting policy.
        train, validation: parquet files with the upstream columns.
        system_prompt: text of the system turn.
        endpoint: address of the retrieval server, or None for a run without search.
        index: directory of the server's index, if it is known.
    """

    model: Path
    train: Path
    validation: Path
    system_prompt: str
    endpoint: str | None = None
    index: Path | None = None


def tools_of(run: RlRun, inputs: RunInputs) -> Tools:
    """The tools; without a retrieval server, the routes omit the tools that need it."""
    routes = {
        task: [name for name in names if inputs.endpoint or not kind(name).retrieval]
        for task, names in run.tools.routes.items()
    }
    return run.tools.model_copy(update={"routes": routes})


def loop_tools(run: RlRun, inputs: RunInputs, cores: int) -> Tools:
    """The tools of one agent loop. There is a loop per GPU, and their sandboxes share the job's cores."""
    tools = tools_of(run, inputs)
    if run.device == "cuda" and tools.python.workers is None:
        python = tools.python.model_copy(update={"workers": max(2, min(16, cores // run.processes))})
        tools = tools.model_copy(update={"python": python})
    return tools


def work_of(run: RlRun, inputs: RunInputs) -> dict[str, Any]:
    """Everything that determines the results, as a JSON value; a run with another value must not resume."""
    tools = tools_of(run, inputs)
    route = sorted({name for names in tools.routes.values() for name in names})
    answered_from = files_of(
        [name for name in route if inputs.index or not kind(name).retrieval], tools, inputs.index or ""
    )
    return {
        "run": _stated(vars(run) | {"tools": tools}),
        # verl's checkpoints can only be loaded by as many processes as wrote them.
        "processes": run.processes,
        "system_prompt": inputs.system_prompt,
        "train": file_digest(inputs.train),
        "validation": file_digest(inputs.validation),
        "model": {path.name: file_digest(path) for path in sorted(inputs.model.glob("*.safetensors"))},
        "answered_from": {file: file_digest(file) for file in answered_from},
        "code": code_digest(*_VERL_CODE, *run.shaping, *modules(route)),
    }


def _stated(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Sections and values as JSON; of a section only the fields that the rule's parameters set (others are unused)."""
    return {
        name: part.model_dump(mode="json", exclude_unset=True, context={"operational": False})
        if isinstance(part, BaseModel)
        else part
        for name, part in parts.items()
    }
