"""Presets: settings that reproduce the conventions of upstream's two rollout loops.

    preset          conventions
    fixed           the defaults of the configuration models: the same in training and evaluation
    upstream_rl     those of upstream's training rollout, in training and evaluation
    upstream_eval   those of upstream's evaluation, in training and evaluation
    upstream        upstream_rl in training, upstream_eval in evaluation: the mismatch in upstream's numbers

Keys in the configuration override the preset. docs/tools.md has the source of each value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tir.config.faults import value_at

_UPSTREAM_PYTHON = {
    "timeout_s": 5.0,
    "output_chars": 400,
    "timeout_text": "'Timed Out'",
    "error_type": False,
    "output_before_error": False,
    "unwrap": False,
    "stderr": False,
    "refuse": ["input(", "os.system("],
}
_RL_TOOLS = {
    "budget": 3,
    "over_budget": "end",
    "leading_space": True,
    "result_tokens": None,
    "routes": {task: ["python", "web_search"] for task in ("math", "qa", "web")},
    "python": {**_UPSTREAM_PYTHON, "empty_output": "Done"},
    "search": {"top_k": 5, "output_chars": None},
    "web_search": {"top_k": 10, "output_chars": None, "layout": "snippets"},
}
_EVAL_TOOLS = {
    "budget": {"python": 3, "search": 3},
    "over_budget": "continue",
    "leading_space": False,
    "result_tokens": None,
    "routes": {"math": ["python", "web_search"], "qa": ["python", "search"], "web": ["python", "web_search"]},
    "python": {**_UPSTREAM_PYTHON, "empty_output": ""},
    "search": {"top_k": 5, "output_chars": None},
    "web_search": {"top_k": 10, "output_chars": None, "layout": "snippets"},
}
_EVAL_DECODING = {"repetition_penalty": 1.1, "prompt_newlines": True, "golds": "last"}
_RL_REWARD = {"reward": {"mode": "upstream_f1"}}

_SEARCHING = ["python", "search"]
# The same as the default of the field, so that a configuration can state the route of one task and keep the others.
_FIXED_ROUTES = {"math": _SEARCHING, "qa": _SEARCHING, "web": ["python", "web_search"]}

PRESETS: dict[str, dict[str, Any]] = {
    "fixed": {"tools": {"routes": _FIXED_ROUTES}},
    "upstream_rl": {"tools": _RL_TOOLS, "rl": _RL_REWARD},
    "upstream_eval": {"tools": _EVAL_TOOLS, "evaluation": _EVAL_DECODING},
    "upstream": {"tools": _RL_TOOLS, "rl": _RL_REWARD, "evaluation": {**_EVAL_DECODING, "tools": _EVAL_TOOLS}},
}


def with_preset(config: Mapping[str, Any]) -> dict[str, Any]:
    """A raw configuration, merged with the defaults of its preset.

    If the preset or the configuration sets `evaluation.tools`, its other keys are those of `tools`.
    """
    preset = PRESETS.get(str(config.get("preset", "fixed")), {})
    merged = overlay(preset, config)
    own = preset.get("evaluation", {}).get("tools")
    stated = [config.get("tools"), value_at(config, ("evaluation", "tools"))]
    # Anything but a mapping or null stays as it is: validation reports it.
    if (own or stated[1]) and all(
        value is None or isinstance(value, Mapping) for value in (*stated, merged["evaluation"])
    ):
        both = overlay(own or preset.get("tools", {}), stated[0] or {})
        merged["evaluation"] = {**(merged["evaluation"] or {}), "tools": overlay(both, stated[1] or {})}
    return merged


def overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings: mappings key by key; other values of `over` replace those of `under`."""
    merged = {key: overlay(value, {}) if isinstance(value, Mapping) else value for key, value in under.items()}
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
