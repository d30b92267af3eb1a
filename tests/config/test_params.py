"""Parameters: a script reads the sections that its rule wrote; errors name the script and the key."""

import json
from types import SimpleNamespace

import pytest
from support.configuration import PAPER

from tir.common.errors import ConfigError
from tir.common.schema import Device
from tir.config.experiment import load
from tir.config.params import operational_params, params, read, without
from tir.config.sft import Sft
from tir.config.tools import Tools
from tir.config.world import WorldSettings


def options(params: str, operational: str = "{}") -> SimpleNamespace:
    return SimpleNamespace(params=json.loads(params), operational=json.loads(operational))


def test_a_script_reads_the_sections_that_its_rule_wrote():
    config = load(PAPER | {"tools": {"search": {"timeout_s": 7.0}, "budget": 5}}, ["config.yaml"])
    parts = {"tools": config.tools, "judge": config.judge}
    given = options(params(**parts, device=config.device), operational_params(**parts))
    found = read(given, tools=Tools, judge=type(config.judge), device=Device)
    assert (found.tools, found.judge, found.device) == (config.tools, config.judge, "cuda")
    assert "timeout_s" not in given.params["tools"]["search"]  # an operational field


def test_operational_fields_of_other_sections_are_dropped():
    given = options('{"tools": {"search": {"top_k": 2}}}', '{"tools": {"search": {"timeout_s": 7}, "python": {}}}')
    tools = read(given, tools=Tools).tools
    assert tools.search.top_k == 2 and tools.search.timeout_s == 7 and tools.model_fields_set == {"search"}


def test_parameters_do_not_depend_on_key_order_or_on_excluded_fields():
    one, other = Sft(seed=1, epochs=2), Sft(epochs=2, seed=1)
    assert params(sft=one, device="cpu") == params(device="cpu", sft=other)
    assert without(one, "seed") == without(Sft(seed=3, epochs=2), "seed") != without(Sft(epochs=3), "seed")


@pytest.mark.parametrize(
    ("kinds", "given", "words"),
    [
        (
            {"sft": Sft},
            {"sft": {"epohs": 2}},
            "train_it --params: sft.epohs: unknown key; did you mean `epochs`?",
        ),
        ({"sft": Sft}, {"sft": {"epochs": 0}}, "train_it --params: sft.epochs: 0: should be greater than or equal"),
        ({"sft": Sft, "device": Device}, {"sft": {}}, "train_it --params: device: missing key"),
        ({"device": Device}, {"device": "gpu"}, "device: 'gpu': should be 'cuda' or 'cpu'"),
        ({"device": Device}, {"device": "cpu", "divice": 1}, "divice: unknown key; did you mean `device`?"),
        (
            {"world": WorldSettings},
            {"world": {"trajectories": {"habits": {"chek": 0.5}}}},
            "world.trajectories.habits.chek: unknown key; did you mean `check`?",
        ),
    ],
)
def test_an_error_names_the_script_and_the_key(monkeypatch, kinds, given, words):
    monkeypatch.setattr("sys.argv", ["/somewhere/scripts/train_it.py"])
    with pytest.raises(ConfigError) as caught:
        read(options(json.dumps(given)), **kinds)
    assert words in str(caught.value)
