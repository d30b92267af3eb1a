"""JSON Schema of the configuration files, for editors and for the configuration reference.

It describes one YAML file, not the merged configuration: no key is required, because an overlay contains only the keys
that differ; an entry of `benchmarks`, `models`, `tables` or `study.phase.worlds` may be null, which removes it. `load`
checks the merged configuration, where every key without a default must be set.
"""

from __future__ import annotations

from typing import Any

from tir.config.experiment import Config
from tir.config.site import Site

_REMOVABLE = ("benchmarks", "models", "tables")  # tir.config.experiment drops entries that are null


def editor_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of config.yaml, its overlays and a profile's `site` section."""
    schema = Config.model_json_schema()
    site = Site.model_json_schema()
    definitions = schema.pop("$defs") | site.pop("$defs")
    definitions["Site"] = site
    properties = schema["properties"] | {"site": {"$ref": "#/$defs/Site"}}
    for name in _REMOVABLE:
        _let_entries_be_null(properties[name])
    _let_entries_be_null(definitions["Phase"]["properties"]["worlds"])
    definitions["Arm"]["properties"]["base"] = {
        "type": "string",
        "description": "another arm, whose keys this one inherits",
    }
    (pattern,) = properties["sft_pilots"]["patternProperties"]
    properties["sft_pilots"]["patternProperties"][pattern] = {"$ref": "#/$defs/Sft"}
    parts = {"properties": properties, "$defs": definitions}
    _simplify(parts, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of tool-star-aspo",
        "type": "object",
        "additionalProperties": False,
        **parts,
    }


def _let_entries_be_null(section: dict[str, Any]) -> None:
    section.pop("minProperties", None)
    for pattern, entry in section["patternProperties"].items():
        section["patternProperties"][pattern] = {"anyOf": [entry, {"type": "null"}]}


def _simplify(part: Any, definitions: dict[str, Any]) -> None:
    """Remove titles, required keys, and those defaults of a section that its keys have too."""
    if isinstance(part, list):
        for each in part:
            _simplify(each, definitions)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("required"), list):
        del part["required"]
    if isinstance(part.get("title"), str):
        del part["title"]
    if "$ref" in part and "default" in part:
        own = _defaults(part, definitions)
        part["default"] = {key: value for key, value in part["default"].items() if value != own[key]}
        if not part["default"]:
            del part["default"]
    for each in part.values():
        _simplify(each, definitions)


def _defaults(reference: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the keys of a section; None for a key without a default."""
    properties = definitions[reference["$ref"].rpartition("/")[2]]["properties"]
    return {
        key: each.get("default", _defaults(each, definitions) if "$ref" in each else None)
        for key, each in properties.items()
    }
