"""Steps 2 and 3 of data synthesis, killed before and after each file that they write, and repeated: the same bytes."""

import json
import sys

import pytest
from support.fake_teacher import rl_row, write_questions
from support.kills import assert_same_after_each_kill
from support.samples import ADD, FIVE, MADE_BY, RESULT, ROWS, record, sample, step2_report

from scripts import classify_questions, normalise_samples
from tir.common.records import write_json, write_jsonl, write_text


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """Kill a script at each of its outputs; returns the number of kills."""

    def run(script, params: dict, **paths: str) -> int:
        options = [word for name, path in paths.items() for word in (f"--{name.replace('_', '-')}", path)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script.__name__, *options, "--params", json.dumps(params)])
        return assert_same_after_each_kill(script.main, tmp_path / "made")

    return run


def test_normalisation(killed, tmp_path):
    samples = [sample("tools", 0, ADD, RESULT, FIVE), sample("direct", 0, FIVE)]
    write_jsonl(tmp_path / "sampled.jsonl", [record(str(n), f"What is {n} plus 3?", *samples) for n in range(4)])
    write_questions(tmp_path / "validation.parquet", [rl_row("What is 1 plus 3?", "4")])
    paths = {"samples": "sampled.jsonl", "validation": "validation.parquet"}
    assert killed(normalise_samples, {"normalisation": {}}, **paths, output="made/n.jsonl", report="made/n.json") == 4


def test_classification_with_mixed_rows(killed, tmp_path):
    write_jsonl(tmp_path / "normalised.jsonl", ROWS)
    write_json(tmp_path / "report.json", step2_report())
    write_json(tmp_path / "teacher.json", MADE_BY)
    write_text(tmp_path / "prompt.txt", "Use tools.")
    params = {"classification": {"mixed": 0.2}, "python": {"minimum_level": 0}, "facts": {"licence": "CC0"}}
    paths = {"questions": "normalised.jsonl", "report": "report.json", "teacher": "teacher.json"}
    assert killed(classify_questions, params, **paths, system_prompt="prompt.txt", output_dir="made") == 8
