"""Parameters of a rule: sections of the configuration, written as canonical JSON by the rule and read by its script.

A rule writes `params(sft=cfg.sft, device=cfg.device)`; its script reads `read(options, sft=Sft, device=Device)`. The
model that validates config.yaml also validates the script's arguments. Operational fields (time-outs, concurrency) go
to `--operational`. They are in a job's command but not among its parameters, so a longer time-out reruns nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from tir.common.errors import ConfigError
from tir.common.records import canonical_json
from tir.common.schema import Model
from tir.config.faults import Fault, faults_of


def params(**parts: Any) -> str:
    """The parameters that determine a rule's results, as canonical JSON, independent of the key order of config.yaml.

    Args:
        parts: sections, whose operational fields are dropped, and other JSON values.
    """
    return canonical_json({name: plain(value) for name, value in parts.items()})


def operational_params(**sections: BaseModel) -> str:
    """The operational fields of the same sections, as canonical JSON."""
    return canonical_json(
        {name: section.model_dump(mode="json", context={"operational": True}) for name, section in sections.items()}
    )


def plain(value: Any) -> Any:
    """A JSON value of models, mappings and sequences."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", context={"operational": False})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def without(section: BaseModel, *fields: str) -> dict[str, Any]:
    """A section without fields that the stage does not read, so that editing them reruns nothing."""
    return {name: value for name, value in plain(section).items() if name not in fields}


def read(options: argparse.Namespace, **kinds: Any) -> Any:
    """The values of `--params` and `--operational`, as an object with one attribute per key.

    Args:
        options: the script's arguments.
        kinds: key -> model of the section, or another type; all keys are required.

    Raises:
        ConfigError: an unknown, missing or invalid key; the error names the script and the key.
    """
    given = _merged(options.params, options.operational)
    return validated(given, f"{Path(sys.argv[0]).stem} --params", **kinds)


def validated(given: Mapping[str, Any], where: str, **kinds: Any) -> Any:
    """Validate any mapping like `read`; `where` is its name in errors."""
    expected = create_model("Params", __base__=Model, **{name: (kind, ...) for name, kind in kinds.items()})
    try:
        return expected.model_validate(given)
    except ValidationError as error:
        faults = faults_of(error, expected, given)
        raise ConfigError("\n".join(f"{where}: {_described(fault)}" for fault in faults)) from None


def _described(fault: Fault) -> str:
    near = f"; did you mean `{fault.near}`?" if fault.near else ""
    return f"{'.'.join(map(str, fault.path))}: {fault.reason[:1].lower()}{fault.reason[1:]}{near}"


def _merged(params: Mapping[str, Any], operational: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters merged with their operational fields; operational fields of other sections are dropped."""
    both = dict(params)
    for key, value in operational.items():
        if not isinstance(value, Mapping):
            both[key] = value
        elif isinstance(both.get(key), Mapping):
            both[key] = _merged(both[key], value)
    return both
