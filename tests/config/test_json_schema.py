"""The JSON Schema for editors equals the models, accepts the configuration files here, and rejects mistakes."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys

import jsonschema
import pytest
import yaml
from support.paths import ROOT

from tir.config.json_schema import editor_schema

SCHEMA = json.loads((ROOT / "config/schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FILES = [ROOT / "config.yaml", *sorted(ROOT.glob("profiles/*/*.yaml"))]
FILES = [path for path in FILES if path.parent == ROOT or path.name != "config.yaml"]  # the others are Snakemake's


def test_the_committed_schema_equals_that_of_the_models():
    assert SCHEMA == editor_schema(), "the models have changed: run `make schema` and commit config/schema.json"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_configuration_files_are_valid_and_name_the_schema(path):
    text = path.read_text(encoding="utf-8")
    errors = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(yaml.safe_load(text))]
    assert not errors
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named and (path.parent / named[1]).resolve() == ROOT / "config/schema.json"


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("arms", "aspo", "lamda"), 0.5),
        (("arms", "aspo", "lambda"), 11),
        (("rl", "steps"), "many"),
        (("evaluation", "tools", "budgett"), 3),
        (("tools", "routes", "math"), ["pyton"]),
        (("sft_pilots", "smoke", "epoch"), 1),
        (("site", "containers"), "sometimes"),
        (("benchmarkz",), {}),
    ],
)
def test_the_schema_rejects_mistakes(keys, value):
    config = copy.deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    assert VALIDATOR.is_valid(config)
    place = config
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    assert not VALIDATOR.is_valid(config)


def test_the_reference_has_a_line_for_every_key():
    """Counts the lines of the page's tables against the schema, in case the page omits a section."""
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "docs/hooks/configuration.py")
    page = sys.modules["configuration_page"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.reference(SCHEMA)
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    for section in sections:
        for key in section["properties"]:
            assert f"\n| `{key}` | " in text
    assert text.count("\n| `") == sum(len(section["properties"]) for section in sections)
    anchors = set(re.findall(r"\{#([^}]+)\}", text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
