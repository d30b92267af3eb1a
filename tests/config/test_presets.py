"""Presets: the settings of each, their order of precedence, and the tools of training and evaluation."""

import contextlib
import copy
import re

import pytest
import yaml
from pydantic import Field
from support.configuration import PAPER, fault, merged
from support.paths import ROOT

from tir.common.schema import Model
from tir.config.experiment import Config, load
from tir.config.presets import PRESETS, overlay
from tir.config.tools import Tools
from tir.rollout.loop import RolloutSettings
from tir.tools import registry
from tir.tools.base import ToolResult
from tir.tools.registry import ToolKind
from tir.workflow import routes


def configured(preset: str, **changes) -> Config:
    value = copy.deepcopy(PAPER) | {"preset": preset}
    for section, keys in changes.items():
        value[section] = {**value.get(section, {}), **keys}
    return load(value, ["config.yaml"])


# UPSTREAM 3.10, row by row: (key, upstream evaluation, upstream RL, fixed)
FLAGS = [
    ("budget", {"python": 3, "search": 3}, 3, 3),
    ("over_budget", "continue", "end", "notice"),
    ("leading_space", False, True, False),
    ("result_tokens", None, None, 1024),
    ("python.empty_output", "", "Done", "Done"),
    ("python.timeout_s", 5.0, 5.0, 5.0),
    ("python.output_chars", 400, 400, 400),
    ("python.refuse", ["input(", "os.system("], ["input(", "os.system("], []),
    ("python.error_type", False, False, True),
    ("python.output_before_error", False, False, True),
    ("python.unwrap", False, False, True),
    ("python.stderr", False, False, False),
    ("search.output_chars", None, None, 8000),
    ("search.top_k", 5, 5, 5),
    ("web_search.top_k", 10, 10, 10),
    ("web_search.layout", "snippets", "snippets", "titled"),
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
def test_each_preset_sets_upstreams_value(key, evaluation, training, fixed):
    assert read(configured("upstream_eval").tools, key) == evaluation
    assert read(configured("upstream_rl").tools, key) == training
    assert read(configured("fixed").tools, key) == fixed
    both = configured("upstream")
    assert (read(both.tools, key), read(both.evaluation_tools, key)) == (training, evaluation)


def test_presets_set_values_outside_the_tools():
    found = {name: configured(name) for name in PRESETS}
    assert {name: config.evaluation.repetition_penalty for name, config in found.items()} == {
        "fixed": 1.0,
        "upstream_rl": 1.0,
        "upstream_eval": 1.1,
        "upstream": 1.1,
    }
    assert {name for name, config in found.items() if config.evaluation.prompt_newlines} == {
        "upstream_eval",
        "upstream",
    }
    assert {name for name, config in found.items() if config.evaluation.golds == "last"} == {
        "upstream_eval",
        "upstream",
    }
    assert {name for name, config in found.items() if config.rl.reward.mode == "upstream_f1"} == {
        "upstream_rl",
        "upstream",
    }
    assert all(config.rl.reward.both_tools_bonus == 0.1 for config in found.values())


def test_the_configuration_overrides_the_preset():
    config = configured(
        "upstream", tools={"budget": 5, "python": {"timeout_s": 30}}, evaluation={"repetition_penalty": 1.0}
    )
    for tools in (config.tools, config.evaluation_tools):
        assert tools.budget == 5 and tools.python.timeout_s == 30 and tools.python.output_chars == 400
    assert config.evaluation.repetition_penalty == 1.0
    split = configured("fixed", tools={"leading_space": True}, evaluation={"tools": {"budget": 7}})
    assert split.tools.budget == 3 and split.evaluation_tools.budget == 7 and split.evaluation_tools.leading_space


def test_without_a_preset_training_and_evaluation_share_one_object():
    config = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), ["config.yaml"])
    assert config.preset == "fixed" and config.evaluation_tools is config.tools


def test_the_rollout_loop_uses_the_presets_settings():
    settings = RolloutSettings(configured("upstream_eval").tools, 4096)
    assert settings.tools.over_budget == "continue" and settings.cap("search") is None
    assert settings.allows("search", {"python": 3, "search": 2}) and not settings.allows(
        "python", {"python": 3, "search": 2}
    )
    fixed = RolloutSettings(configured("fixed").tools, 4096)
    assert not fixed.allows("search", {"python": 2, "search": 1}) and fixed.tools == Tools()


def test_a_tasks_parameters_and_files_are_those_of_its_tools():
    tools = configured("upstream").evaluation_tools
    given = routes.settings(tools, "qa")
    assert set(given) & {"python", "search", "web_search"} == {"python", "search"} and set(given["routes"]) == {"qa"}
    assert routes.files(tools, "qa") == ["index/manifest.json"] and routes.files(tools, "web") == ["cache/web.sqlite"]


def test_a_setting_of_one_tool_is_not_a_parameter_of_other_tools():
    plain, changed = configured("fixed").tools, configured("fixed", tools={"web_search": {"top_k": 3}}).tools
    assert routes.settings(plain, "math", "qa") == routes.settings(changed, "math", "qa")
    assert routes.settings(plain, "web") != routes.settings(changed, "web")


def test_errors_name_unknown_presets_and_conflicting_tools():
    assert "did you mean `upstream_eval`" in fault(lambda value: value.update(preset="upstream_evl"))
    both = fault(lambda value: value["tools"].update(routes={"qa": ["search", "web_search"]}))
    assert "same tag" in both


@pytest.mark.parametrize("preset", ["fixed", "upstream_rl", "upstream_eval", "upstream"])
@pytest.mark.parametrize("key", ["evaluation", "evaluation.tools", "tools", "tools.routes"])
@pytest.mark.parametrize("value", [5, [], "x"])
def test_a_value_in_place_of_a_section_is_an_error_with_every_preset(preset, key, value):
    *above, last = key.split(".")

    def change(config):
        config.update(preset=preset)
        (config.setdefault(above[0], {}) if above else config)[last] = value

    assert f"{key}: {value!r}: should be a mapping" in fault(change)


def documented(language: str) -> list[str]:
    """Code blocks of docs/tools.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs/tools.md").read_text(encoding="utf-8"), re.M | re.S)


def test_the_documented_overlays_are_valid():
    """Every YAML block, merged into the paper's configuration, except the section of the documented tool."""
    overlays = [yaml.safe_load(block) for block in documented("yaml") if "day:" not in block]
    assert [set(value) for value in overlays] == [{"tools", "evaluation", "judge"}, {"tools"}, {"evaluation"}, {"site"}]
    configs = [load(overlay(PAPER, value), ["config.yaml"]) for value in overlays]
    assert configs[2].helper_models("none") == (["base", "judge"], {})
    assert configs[1].benchmarks["webwalker"].task == "web"


def test_the_documented_tool_accepts_its_documented_section():
    (source,) = documented("python")
    section = next(block for block in documented("yaml") if "day: {" in block)
    given = {"contextlib": contextlib, "Field": Field, "Model": Model, "ToolKind": ToolKind, "ToolResult": ToolResult}
    exec(source, given)
    settings = given["TOOL"].settings(**yaml.safe_load(section)["tools"]["day"])
    with given["TOOL"].make(settings, None) as tool:
        assert settings.language == "de" and callable(tool.call)
    assert given["TOOL"].tag == registry.kind("web_search").tag  # the documented routes replace web_search by it


@pytest.mark.parametrize("preset", list(PRESETS))
def test_stating_the_route_of_one_task_keeps_the_tools_of_the_others(preset):
    before, after = configured(preset), configured(preset, tools={"routes": {"web": ["python", "search"]}})
    assert after.tools.routes == before.tools.routes | {"web": ["python", "search"]}
    assert after.tools.routes["math"] and after.tools.routes["qa"]
