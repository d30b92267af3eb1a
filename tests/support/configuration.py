"""The shipped configuration as a mapping, and the error message of a changed configuration."""

import copy

import pytest
import yaml
from support.paths import ROOT

from tir.common.errors import ConfigError
from tir.config.experiment import load

PAPER = yaml.safe_load((ROOT / "config.yaml").read_text())


def merged(*files: str) -> dict:
    """Files of the repository, merged."""
    return overlaid(*(yaml.safe_load((ROOT / file).read_text()) for file in files))


def overlaid(*values: dict) -> dict:
    """Mappings merged as by Snakemake: key by key; all other values are replaced."""

    def update(base, other):
        for key, value in other.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                update(base[key], value)
            else:
                base[key] = value
        return base

    result: dict = {}
    for value in values:
        update(result, copy.deepcopy(value))
    return result


def fault(change) -> str:
    """Message of the `ConfigError` for the paper's configuration after `change(mapping)`."""
    value = copy.deepcopy(PAPER)
    change(value)
    with pytest.raises(ConfigError) as caught:
        load(value, [str(ROOT / "config.yaml")])
    return str(caught.value)
