"""The summary's sentences, from results of generated records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import made_up
from support.paths import ROOT

from tir.analysis.summary import FOUND, NOT_FOUND, RUN, as_html, sections
from tir.analysis.tables import build
from tir.analysis.tables.files import write_tables
from tir.analysis.tables.inputs import Inputs
from tir.workflow.targets import last_summary

FACTS = {
    "decoding": {"temperature": 1.0, "samples": 2},
    "arms": ["grpo", "aspo"],
    "seeds": 3,
    "epochs": 2,
    "steps": 30,
    "prompts": 32,
    "samples": 4,
    "benchmarks": [{"label": each["label"], "n": 30} for each in made_up.BENCHMARKS],
}
PARAMS = {"tables": ["table5"], "figures": [], "facts": FACTS}
TABLE5 = {"rows": made_up.ROWS, "benchmarks": made_up.BENCHMARKS}
DECODING = {"temperature": 0.0, "samples": 1}
ORIGIN = {"origin": {"data": "generated world", "model": "base", "seeds": 3}}
LABEL = "generated world, 3 seeds"
ONE_SEED = [row | {"models": row["models"][:1]} for row in made_up.ROWS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made_up.everything(tmp_path_factory.mktemp("records"))


def _results(root: Path, folder: Path, rows: list[dict], claims: list[dict]) -> Path:
    inputs = Inputs(scores=[root / "scores"], traces=[root / "traces"], metrics=[root / "runs/rl"])
    for name, params in {
        "table5": TABLE5 | {"rows": rows},
        "behaviour": TABLE5 | {"rows": rows, "decoding": DECODING},
        "shaping": {"arms": ["grpo", "aspo"]},
    }.items():
        write_tables(build(name, inputs, params), folder / f"{name}.csv", config={})
    (folder / "claims.json").write_text(json.dumps(claims))
    return folder


def _claim(says: str, verdict: str, why: str = "", measured=None, lo=None, hi=None) -> dict:
    return {"says": says, "verdict": verdict, "why": why, "measured": measured, "lo": lo, "hi": hi}


CLAIMS = [
    _claim("A is better", "holds", "", 1.9234, 1.5, 2.25),
    _claim("B is better", "does not hold", "", 3),
    _claim("C is better", "not distinguishable at this n"),
    _claim("D is better", "not measured (generated world)", "the claim is about D"),
]


# --- sentences ---


def test_the_summary_says_what_was_run_found_and_not_found(root, tmp_path):
    found = sections(_results(root, tmp_path, made_up.ROWS, CLAIMS), PARAMS, "")
    assert list(found) == [RUN, FOUND, NOT_FOUND]
    run = " ".join(found[RUN])
    assert "30 steps with 32 prompts and 4 trajectories" in run and "2 arms (grpo, aspo), 3 seeds each" in run
    assert "30 questions of each of GSM8K, MATH500" in run and "generated" not in run
    assert run.endswith(": each 2 times, at temperature 1.")
    text = " ".join(found[FOUND])
    assert text.startswith("Average scores with 95 % intervals: published ")
    assert "1 of 4 claims hold: A is better: 1.92 [1.5, 2.25]." in text
    assert "1 of 4 claims do not hold: B is better: 3." in text
    assert "phi was 40 % of the advantage" in text and "thought again directly after calling Python" in text
    missing = " ".join(found[NOT_FOUND])
    assert "cannot be told apart on average" in missing and "found with probability 0.8" in missing
    assert "1 of 4 claims cannot be decided" in missing
    assert "1 of 4 claims were not measured: the claim is about D (1)" in missing


def test_an_average_over_math_or_questions_that_differs_is_a_finding(root, tmp_path):
    """Arms that gain in math what they lose in questions have equal averages."""
    folder = _results(root, tmp_path, made_up.ROWS, CLAIMS)
    file = folder / "table5_comparisons.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.loc[(table["benchmark"] == "qa") & (table["holm_p"] != ""), "holm_p"] = "0.001"
    table.to_csv(file, index=False)
    assert "On the average over questions" in " ".join(sections(folder, PARAMS, "")[FOUND])


def test_the_summary_of_one_seed_draws_no_conclusion_about_training(root, tmp_path):
    found = sections(_results(root, tmp_path, ONE_SEED, CLAIMS), PARAMS | {"facts": FACTS | {"seeds": 1}}, LABEL)
    assert found[RUN][0].startswith(f"This is a run of a {LABEL}.")
    text = " ".join(found[NOT_FOUND])
    assert "each arm has one seed" in text and "ASPO @ 30 − GRPO @ 30" in text
    assert "One seed of GRPO @ 30, ASPO @ 30" in found[FOUND][0]
    assert any(sentence.endswith("times (one seed of each arm, without a test).") for sentence in found[FOUND])
    assert not any("On average ASPO" in sentence or "On average GRPO" in sentence for sentence in found[FOUND])


def test_the_page_has_the_sentences_and_contains_its_figures(root, tmp_path):
    picture = tmp_path / "figure1.png"
    picture.write_bytes(b"picture")
    text = as_html({"What was <run>": []} | {RUN: ["5 < 6"]}, [picture])
    assert "<li>5 &lt; 6</li>" in text and 'src="data:image/png;base64,cGljdHVyZQ=="' in text


def test_the_script_writes_the_page_and_its_sentences(root, tmp_path):
    folder = _results(root, tmp_path / "results", made_up.ROWS, CLAIMS)
    command = [sys.executable, "-m", "scripts.write_summary", "--results", folder, "--output", folder / "summary.html"]
    command += ["--params", json.dumps(PARAMS | ORIGIN)]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    written = json.loads((folder / "summary.json").read_text())
    assert list(written) == [RUN, FOUND, NOT_FOUND] and LABEL in written[RUN][0]
    assert LABEL in (folder / "summary.html").read_text() and last_summary(folder / "summary.json") == written
    assert last_summary(folder / "none.json") == {}
