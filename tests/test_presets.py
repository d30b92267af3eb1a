"""Compatibility presets: each flag by name, laid under the configuration, read alike by training and evaluation."""

import contextlib
import copy
import re
import textwrap

import pytest
import yaml
from pydantic import Field
from test_config import PAPER, ROOT, fault, merged

from tir.config import Config, load
from tir.presets import PRESETS, overlay
from tir.rollout import RolloutSettings
from tir.schema import Model
from tir.tools import registry
from tir.tools.base import ToolResult
from tir.tools.registry import ToolKind


def configured(preset: str, **changes) -> Config:
    value = copy.deepcopy(PAPER) | {"preset": preset}
    for section, keys in changes.items():
        value[section] = {**value.get(section, {}), **keys}
    return load(value, ["config.yaml"])


# UPSTREAM 3.10, row by row: (key, upstream evaluation, upstream RL, fixed)
FLAGS = [
    ("budget", {"python": 3, "search": 3}, 3, 3), ("over_budget", "continue", "end", "notice"),
    ("leading_space", False, True, False), ("result_tokens", None, None, 1024), ("python.empty_output", "", "Done", "Done"),
    ("python.timeout_s", 5.0, 5.0, 5.0), ("python.output_chars", 400, 400, 400), ("python.refuse", ["input(", "os.system("], ["input(", "os.system("], []),
    ("python.unnamed_errors", "empty", "empty", "type"), ("search.output_chars", None, None, 8000),
    ("search.top_k", 5, 5, 5), ("web_search.top_k", 10, 10, 10), ("web_search.layout", "snippets", "snippets", "titled"),
    ("routes.qa", ["python", "search"], ["python", "web_search"], ["python", "search"]),
    ("routes.math", ["python", "web_search"], ["python", "web_search"], ["python", "search"]),
    ("routes.web", ["python", "web_search"], ["python", "web_search"], ["python", "web_search"]),
]


def read(tools, key: str):
    value = tools.model_dump()
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(("key", "evaluation", "training", "fixed"), FLAGS)
def test_each_flag_has_its_value_under_each_name(key, evaluation, training, fixed):
    assert read(configured("upstream_eval").tools, key) == evaluation
    assert read(configured("upstream_rl").tools, key) == training
    assert read(configured("fixed").tools, key) == fixed
    both = configured("upstream")
    assert (read(both.tools, key), read(both.evaluation_tools, key)) == (training, evaluation)


def test_flags_outside_the_tools():
    found = {name: configured(name) for name in PRESETS}
    assert {name: config.evaluation.repetition_penalty for name, config in found.items()} == {
        "fixed": 1.0, "upstream_rl": 1.0, "upstream_eval": 1.1, "upstream": 1.1}
    assert {name for name, config in found.items() if config.evaluation.prompt_newlines} == {"upstream_eval", "upstream"}
    assert {name for name, config in found.items() if config.evaluation.golds == "last"} == {"upstream_eval", "upstream"}
    assert {name for name, config in found.items() if config.rl.reward.mode == "upstream_f1"} == {"upstream_rl", "upstream"}
    assert all(config.rl.reward.both_tools_bonus == 0.1 for config in found.values())


def test_what_the_configuration_says_wins():
    config = configured("upstream", tools={"budget": 5, "python": {"timeout_s": 30}}, evaluation={"repetition_penalty": 1.0})
    for tools in (config.tools, config.evaluation_tools):
        assert tools.budget == 5 and tools.python.timeout_s == 30 and tools.python.output_chars == 400
    assert config.evaluation.repetition_penalty == 1.0
    apart = configured("fixed", tools={"leading_space": True}, evaluation={"tools": {"budget": 7}})
    assert apart.tools.budget == 3 and apart.evaluation_tools.budget == 7 and apart.evaluation_tools.leading_space


def test_without_a_preset_training_and_evaluation_share_one_object():
    config = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), ["config.yaml"])
    assert config.preset == "fixed" and config.evaluation_tools is config.tools


def test_the_loop_reads_what_the_preset_says():
    settings = RolloutSettings.of(configured("upstream_eval").tools.of("qa"), 4096)
    assert settings.over_budget == "continue" and settings.cap("search") is None
    assert settings.allows("search", {"python": 3, "search": 2}) and not settings.allows("python", {"python": 3, "search": 2})
    fixed = RolloutSettings.of(configured("fixed").tools.of("qa"), 4096)
    assert not fixed.allows("search", {"python": 2, "search": 1}) and fixed == RolloutSettings()


def test_a_task_reads_only_its_own_tools():
    tools = configured("upstream").evaluation_tools
    assert set(tools.of("qa")) & {"python", "search", "web_search"} == {"python", "search"}
    assert set(tools.of("qa")["routes"]) == {"qa"} and tools.files("qa") == ["index/manifest.json"]
    assert tools.files("web") == ["cache/web.sqlite"]


def test_a_setting_of_one_tool_is_no_parameter_of_the_others():
    plain, changed = configured("fixed").tools, configured("fixed", tools={"web_search": {"top_k": 3}}).tools
    assert plain.of("math", "qa") == changed.of("math", "qa") and plain.of("web") != changed.of("web")


def test_mistakes_are_named():
    assert "did you mean `upstream_eval`" in fault(lambda value: value.update(preset="upstream_evl"))
    both = fault(lambda value: value["tools"].update(routes={"qa": ["search", "web_search"]}))
    assert "same tag" in both


def documented() -> list[str]:
    """The indented blocks of docs/tools.md."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n", (ROOT / "docs/tools.md").read_text(), re.M)]


def test_the_documented_overlays_are_valid():
    """Every YAML block, laid over the paper's configuration; the others are commands, and one tool with its section."""
    blocks = [block for block in documented() if "ToolKind(" not in block and "day:" not in block]
    overlays = [value for value in map(yaml.safe_load, blocks) if isinstance(value, dict)]
    assert [set(value) for value in overlays] == [{"tools", "evaluation", "judge"}, {"tools"}, {"evaluation", "site"}]
    for value in overlays:
        config = load(overlay(PAPER, value), ["config.yaml"])
    assert config.evaluation.helpers.debugger.uses == 1
    assert load(overlay(PAPER, overlays[1]), ["config.yaml"]).benchmarks["webwalker"].task == "web"


def test_the_documented_tool_takes_its_documented_section():
    source, section = (next(block for block in documented() if word in block) for word in ("ToolKind(", "day: {"))
    given = {"contextlib": contextlib, "Field": Field, "Model": Model, "ToolKind": ToolKind, "ToolResult": ToolResult}
    exec(source, given)
    settings = given["TOOL"].settings(**yaml.safe_load(section)["tools"]["day"]).model_dump()
    with given["TOOL"].make(settings, None) as tool:
        assert settings == {"language": "de"} and callable(tool.call)
    assert given["TOOL"].tag == registry.kind("web_search").tag  # whose place the section gives it
