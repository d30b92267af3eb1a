"""The section `synthesis`: faults name their key, and nothing may be made of itself."""

import copy

import pytest
from support.configuration import PAPER, fault, merged

from tir.config.experiment import load

HUB = {"kind": "hub", "repo": "o/n", "file": "f"}


def change(path, value):
    def apply(config):
        *above, last = path.split(".")
        for key in above:
            config = config[key]
        config[last] = value

    return apply


def several(*changes):
    return lambda config: [each(config) for each in changes]


SYNTHETIC = several(change("data.sft", {"kind": "synthesis"}), change("data.prompt", "p"))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (change("synthesis.sampling.budget", {"tokens": 0}), "synthesis.sampling.budget.tokens: 0: "),
        (change("synthesis.sampling.budget", {"calls": 0}), "synthesis.sampling.budget.calls: 0: "),
        (change("synthesis.teacher.model", "bas"), "synthesis.teacher.model: models has no bas; did you mean `base`?"),
        (
            change("synthesis.teacher.endpoint", "host:80"),
            "synthesis.teacher.endpoint: 'host:80': should be address of an",
        ),
        (change("synthesis.classification", {"mixed": 1.0}), "synthesis.classification.mixed: 1.0: "),
        (change("synthesis.sampling.routes", {"qa": ["search", "web_search"]}), "routes.qa has search and web_search"),
        (change("synthesis.questions", {"kind": "hub", "repo": "o/n"}), "synthesis.questions.file: missing key"),
        (change("synthesis.questions", {"kind": "world"}), "synthesis.questions.kind: a source of kind world needs"),
        (change("synthesis.questions", {"kind": "synthesis"}), "synthesis.questions.kind: 'synthesis': only hub, url"),
        (change("data.corpus", {"kind": "synthesis"}), "only data.sft and data.rl_train can be of kind synthesis"),
        (
            change("data.sft", {"kind": "synthesis"}),
            "data.prompt: missing key: rows of kind synthesis need a system prompt",
        ),
        (
            several(SYNTHETIC, change("synthesis", None)),
            "data.sft.kind: a source of kind synthesis needs a `synthesis:`",
        ),
        (several(SYNTHETIC, change("synthesis.teacher.model", "sft")), "sft is itself made of the fine-tuning data"),
        (
            several(SYNTHETIC, change("models.base", {"kind": "world"}), change("tiny_model", {"seed": 0})),
            "data.sft.kind: the tiny model's vocabulary is made of the fine-tuning data",
        ),
        (change("data.rl_train", {"kind": "synthesis"}), "synthesis.questions: null: the questions of data.rl_train"),
        (
            change("sft_pilots.original", {"max_rows": 50}),
            "sft_pilots.original: this run compares the synthesised corpus",
        ),
        (
            change("synthesis", None),
            "tables.synthesis.rows.0.model: shows sft-original, which compares the corpus",
        ),
    ],
)
def test_faults_name_their_key(edit, expected):
    message = fault(edit)
    assert expected in message and "config.yaml" in message


def test_a_budget_of_zero_ends_in_one_paragraph_with_a_line_to_paste():
    message = fault(change("synthesis.sampling.budget", {"tokens": 0}))
    assert "config.yaml: synthesis.sampling.budget.tokens: 0: no request could be sent to the teacher" in message
    assert message.endswith("  write:\n    synthesis:\n      sampling:\n        budget:\n          tokens: null")


@pytest.mark.parametrize(
    "edit",
    [
        SYNTHETIC,
        several(SYNTHETIC, change("data.rl_train", {"kind": "synthesis"}), change("synthesis.questions", HUB)),
        several(SYNTHETIC, change("synthesis.teacher", {"model": "any/name", "endpoint": "https://host/v1"})),
        change("synthesis.teacher", {"model": "sft"}),
        several(change("synthesis", None), change("tables.synthesis", None)),
    ],
)
def test_valid_ones(edit):
    value = copy.deepcopy(PAPER)
    edit(value)
    if value["data"]["sft"]["kind"] == "synthesis":
        value["tables"]["synthesis"] = None
    assert load(value, ["config.yaml"]).data.sft.kind == value["data"]["sft"]["kind"]


def test_the_laptops_teacher_is_its_fine_tuned_model():
    settings = load(merged("config.yaml", "profiles/laptop/tiny.yaml"), ["config.yaml"]).synthesis
    assert settings.teacher.model == "sft" and settings.questions.kind == "world"
