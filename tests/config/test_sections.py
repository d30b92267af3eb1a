"""All configuration models: fields have descriptions, values pass through unchanged, and stages use only values."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from support.configuration import PAPER, fault, merged
from support.paths import ROOT

from tir.analysis.figures import FIGURES
from tir.analysis.figures import STUDY as STUDY_FIGURES
from tir.analysis.tables import STUDY as STUDY_TABLES
from tir.analysis.tables import TABLES
from tir.common.schema import Model
from tir.config.arms import Arm
from tir.config.evaluation import Evaluation
from tir.config.experiment import Config, load
from tir.config.retrieval import Retrieval
from tir.config.site import Site
from tir.retrieval.build import build_index
from tir.retrieval.client import SearchClient
from tir.retrieval.settings import EncoderSettings
from tir.scoring.score import score_traces
from tir.tools import registry
from tir.tools.search_tool import SearchToolConfig
from tir.workflow.digests import code

SCALES = {
    "paper": lambda: PAPER,
    "laptop": lambda: merged("config.yaml", "profiles/laptop/tiny.yaml", "profiles/laptop/site.yaml"),
    "ci": lambda: merged("config.yaml", "profiles/laptop/tiny.yaml", "profiles/ci/quick.yaml"),
}


def models(annotation: Any, found: set[type[Model]]) -> set[type[Model]]:
    """All models in a type, also nested ones."""
    if isinstance(annotation, type) and issubclass(annotation, Model) and annotation not in found:
        found.add(annotation)
        for field in annotation.model_fields.values():
            models(field.annotation, found)
    for part in get_args(annotation):
        models(part, found)
    return found


def sections(value: Any) -> Iterator[Model]:
    """All models in a configuration, from the outermost."""
    if isinstance(value, Model):
        yield value
        value = dict(value)
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from sections(each)


def test_every_field_has_a_description():
    missing = [
        f"{model.__module__}.{model.__name__}.{name}"
        for root in (Config, Site)
        for model in models(root, set())
        for name, field in model.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert not missing


@pytest.mark.parametrize("scale", SCALES)
def test_validating_a_section_again_does_not_change_its_values(scale):
    """Stages validate their sections again. Code digests omit the models, so this must not change values."""
    config = load(SCALES[scale](), ["config.yaml"])
    kinds = {type(section) for section in sections(config)}
    assert {"Sft", "Rl", "Arm", "Tools", "Evaluation", "Judge"} <= {kind.__name__ for kind in kinds}
    for section in sections(config):
        values = section.model_dump(mode="json")
        assert type(section).model_validate(values).model_dump(mode="json") == values


# --- conditions under which code digests may omit the models ---------------------------------------------------------


def stages() -> dict[str, ast.Module]:
    """Syntax trees of all files in code digests."""
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    scripts = re.findall(r'code_digest\(\s*"(scripts\.\w+)"', rules)
    kinds = [*TABLES.values(), *FIGURES.values(), *STUDY_TABLES.values(), *STUDY_FIGURES.values()]
    builders = [kind.module for kind in kinds]
    files = code(*scripts, *builders, *registry.modules(registry.kinds()), "aspo.integration")
    assert len(files) > 100
    return {file: ast.parse((ROOT / file).read_text()) for file in files}


def test_stages_import_only_models_from_the_configuration():
    """Code digests omit `tir.config`, so no function of it may compute a result. `params` only reads arguments."""
    for file, tree in stages().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tir.config"):
                imported = [getattr(importlib.import_module(node.module), alias.name) for alias in node.names]
                assert node.module == "tir.config.params" or all(issubclass(each, Model) for each in imported), file
            elif isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name.startswith("tir.config")], file


def test_stages_call_no_method_of_a_model():
    of_models = {
        name
        for model in models(Config, set()) - {Config}
        for part in model.__mro__[: model.__mro__.index(Model)]
        for name, value in vars(part).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod))
    }
    assert of_models == {"local_files", "from_text"}  # only the rules and the errors call them
    for file, tree in stages().items():
        assert not of_models & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, file


def test_stages_create_no_sections():
    """The defaults of a section that a stage creates would not be in the rule's parameters."""
    made, defined = set(), set()
    for file, tree in stages().items():
        nodes = list(ast.walk(tree))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and "tir.config" in (node.module or "")]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        own = {each.name for each in classes if any(getattr(base, "id", "") == "Model" for base in each.bases)}
        sections = own | {alias.name for node in froms if node.module != "tir.config.params" for alias in node.names}
        calls = {getattr(node.func, "id", "") for node in nodes if isinstance(node, ast.Call)}
        made |= {(file, name) for name in calls & sections}
        defined |= own
    assert made == {("tir/tools/python_tool.py", "PythonToolConfig")}
    # digests omit these classes
    assert defined == {kind.settings.__name__ for kind in registry.kinds().values()} | {EncoderSettings.__name__}


# --- parts of the library that are imported without a configuration ------------------------------------------------


def defaults_of_model(model: type[Model], *excluded: str) -> dict[str, Any]:
    fields = {name: field for name, field in model.model_fields.items() if name not in excluded}
    return {name: ... if field.is_required() else field.default for name, field in fields.items()}


def defaults_of_dataclass(kind: type, *excluded: str) -> dict[str, Any]:
    return {
        field.name: ... if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
        if field.name not in excluded
    }


def test_an_arm_has_the_coefficients_of_the_shaping_term():
    from aspo import ASPOConfig

    # `dpo` is a stage of its own. `norm_by_std` is a setting of verl; `correct_from` follows from the reward, which is
    # the same for all arms.
    coefficients = defaults_of_model(Arm, "estimator", "dpo")
    assert coefficients == defaults_of_dataclass(ASPOConfig, "norm_by_std", "correct_from")


@pytest.mark.parametrize(
    ("function", "section", "names"),
    [
        (SearchClient, SearchToolConfig, ("top_k", "timeout_s", "retry_budget_s")),
        (build_index, Retrieval, ("shard_rows",)),
        (score_traces, Evaluation, ("golds",)),
    ],
)
def test_a_function_has_the_defaults_of_its_section(function, section, names):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in names} == {
        name: section.model_fields[name].default for name in names
    }


@pytest.mark.parametrize(
    ("keys", "given", "known"),
    [
        ("data.sft", "search_r1", "sharegpt"),
        ("data.rl_validation", "sharegpt", "search_r1"),
        ("data.corpus", "sharegpt", "null"),
        ("benchmarks.gsm8k.source", "sharegpt", "search_r1"),
    ],
)
def test_a_format_of_another_file_is_refused_with_the_one_to_paste(keys, given, known):
    def change(configuration):
        for key in keys.split("."):
            configuration = configuration[key]
        configuration["format"] = given

    message = fault(change)
    assert f"{keys}.format: '{given}': not a format of this file" in message and f"format: {known}\n" in message + "\n"
