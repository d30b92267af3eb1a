"""Claims: verdicts on made-up records of known truth, and the paper's own arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import made_up
import numpy as np
import pytest

from tir.claims.evaluators import EVALUATORS
from tir.claims.report import check, claims, table
from tir.claims.run import Run
from tir.claims.verdict import FAILS, HOLDS, UNCLEAR, UNMEASURED, direction, equivalence, exact, value
from tir.tables.inputs import Inputs
from tir.tables.page import page
from tir.tables.reference import paper
from tir.tables.trajectories import Behaviour

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"published": ["published"], "sft": ["sft"]} | {
    f"{arm}@last": [f"{arm}-step30-seed{seed}" for seed in (1, 2, 3)] for arm in ("grpo", "aspo")}
SETS = [{"model": "published", "benchmark": each["name"], "task": each["task"], "n": None} for each in made_up.BENCHMARKS]
PARAMS = {"models": MODELS, "benchmarks": made_up.BENCHMARKS, "sets": SETS, "statistics": {"resamples": 1000, "seed": 0},
          "facts": {"trajectories": 3840}}


def scores(root: Path, levels: dict[str, float], n: int = 200) -> Inputs:
    """Right-or-wrong answers on every benchmark, the chance of a model (`sft`, `aspo@last`) being the same on each."""
    for model, level in levels.items():
        for seed, name in enumerate(MODELS[model]):
            for number, each in enumerate(made_up.BENCHMARKS):
                draw = np.random.default_rng([number, round(1000 * level), seed])
                made_up.write_lines(root / "scores" / name / f"{each['name']}.jsonl", [
                    {"id": str(item), "sample": 0, "em": float(right), "f1": float(right), "acc": float(right),
                     "correct": bool(right)} for item, right in enumerate(draw.random(n) < level)])
    return Inputs(scores=[root / "scores"])


def verdicts(inputs: Inputs, **more) -> dict[str, dict]:
    return {record["id"]: record for record in check(inputs, PARAMS | more)}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    root = made_up.everything(tmp_path_factory.mktemp("records"))
    return root, Inputs(scores=[root / "scores"], traces=[root / "traces"], metrics=[root / "runs" / "rl"],
                        logs=[root / "runs" / "sft"], data=[root / "sft.json"])


# --- what may be concluded -----------------------------------------------------------------------------------------


def test_a_direction_needs_more_than_a_sign():
    assert direction(2, 1, 3, stated=1.7).verdict == HOLDS and direction(2, 1, 3, stated=1.7).stated_inside
    assert direction(-2, -3, -1, stated=1.7).verdict == FAILS
    assert direction(2, -1, 5, stated=1.7).verdict == UNCLEAR
    assert direction(2, 1, 3, stated=1.7, p=0.06).verdict == UNCLEAR  # correction outranks the interval
    assert direction(4.8, 2, 9, stated=5, null=1).verdict == HOLDS


def test_no_difference_found_is_no_proof_of_equality():
    assert equivalence(-0.4, -9, 8, stated=-0.4, margin=5).verdict == UNCLEAR
    assert equivalence(-0.4, -3, 2, stated=-0.4, margin=5).verdict == HOLDS
    assert equivalence(-4, -7, -1, stated=-0.4, margin=5).verdict == FAILS


def test_a_value_is_held_or_contradicted_by_its_interval():
    assert value(0.96, 0.95, 0.97, stated=0.96, tolerance=0.02).verdict == HOLDS
    assert value(0.992, 0.97, 1.01, stated=0.96, tolerance=0.02).verdict == FAILS
    assert value(0.96, 0.8, 1.1, stated=0.96, tolerance=0.02).verdict == UNCLEAR
    assert exact(0.024, False, "counted").verdict == FAILS


@pytest.mark.parametrize("numbers", [(1.1, np.nan, np.nan), (1.1, np.nan, 2.0), (np.inf, 2.0, 3.0), (np.nan, 2.0, 3.0)])
def test_a_number_that_is_none_decides_nothing(numbers):
    """A comparison with NaN is false: an interval of NaN does not "exclude" anything."""
    for found in (direction(*numbers, 5, null=1.0), equivalence(*numbers, 0, 5), value(*numbers, 2.5, 1)):
        assert found.verdict == UNCLEAR and found.lo is found.hi is None and found.stated_inside is None
    assert exact(float("nan"), False, "").verdict == UNCLEAR
    json.dumps(direction(*numbers, 5).as_json(), allow_nan=False)


class Made:
    """As much of a run as an evaluator reads."""

    resamples = 2000

    def __init__(self, **given):
        self.__dict__ |= given

    def random(self, name):
        return np.random.default_rng(0)

    def trajectories(self, task=None):
        return self.found

    def trajectory_metrics(self):
        return self.metrics

    def curve(self, arm, metric):
        return np.array(self.values)


def trajectory(actions: tuple[str, ...], correct: bool) -> Behaviour:
    return Behaviour("gsm8k", str(next(NUMBERS)), "math", actions, {}, 3, correct)


def trajectories(actions: tuple[str, ...], correct: bool, times: int) -> list[Behaviour]:
    return [trajectory(actions, correct) for _ in range(times)]


NUMBERS = count()
ANSWERS, RETHINKS = ("think", "python", "answer"), ("think", "python", "think", "answer")
BIGRAMS = {"id": "x", "first": ["python", "answer"], "second": ["python", "think"], "stated": 5}


def test_a_bigram_that_most_resamples_lack_has_no_interval():
    found = trajectories(ANSWERS, True, 30) + trajectories(ANSWERS, False, 10)
    rare = [trajectory(RETHINKS, True), trajectory(RETHINKS, False)]
    assert EVALUATORS["bigram_ratio"](BIGRAMS, Made(found=found + rare)).verdict == UNCLEAR
    some = [trajectory(RETHINKS, True), *trajectories(RETHINKS, False, 4)]  # 0.7 % of resamples have none of 5 in 45
    judged = EVALUATORS["bigram_ratio"](BIGRAMS, Made(found=found + some))
    assert judged.lo is not None and judged.lo < judged.measured == pytest.approx(0.75 / 0.2)


def test_samples_of_an_item_narrow_no_interval():
    """An item answered four times alike says no more than once."""
    found = [trajectory(kind, number % 5 < right) for kind, right in ((ANSWERS, 4), (RETHINKS, 1)) for number in range(20)]
    found = [replace(each, offset=100 * number % 17) for number, each in enumerate(found)]
    for kind in ("bigram_ratio", "offset_difference"):
        once, often = (EVALUATORS[kind](BIGRAMS, Made(found=found * times)) for times in (1, 4))
        assert (once.measured, once.lo, once.hi) == pytest.approx((often.measured, often.lo, often.hi)), kind
        apart = [replace(each, item=f"{each.item}-{time}") for time in range(4) for each in found]
        wide, narrow = once.hi - once.lo, np.ptp([getattr(EVALUATORS[kind](BIGRAMS, Made(found=apart)), end) for end in ("lo", "hi")])
        assert narrow < 0.75 * wide, kind


def test_one_metric_whose_interval_holds_0_leaves_every_metric_open():
    """Under F1 the difference is small and sure, under exact match larger and unsure."""
    found = trajectories(ANSWERS, True, 30) + trajectories(RETHINKS, False, 10)
    sure, unsure = [0.30] * 30 + [0.05] * 10, [1.0] * 19 + [0.0] * 11 + [1.0] * 3 + [0.0] * 7
    judge = EVALUATORS["bigram_every_metric"]
    assert judge(BIGRAMS, Made(found=found, metrics={"mean F1": sure})).verdict == HOLDS
    both = judge(BIGRAMS, Made(found=found, metrics={"mean F1": sure, "exact match": unsure}))
    assert both.verdict == UNCLEAR and "exact match" in both.why and both.measured == pytest.approx(19 / 30 - 0.3)
    turned = judge(BIGRAMS, Made(found=found, metrics={"mean F1": sure, "other": [-each for each in sure]}))
    assert turned.verdict == FAILS and "other" in turned.why


def test_growth_from_nothing_is_no_number():
    claim = {"arm": "aspo", "metric": "actor/kl_loss", "stated": 3}
    found = EVALUATORS["metric_growth"](claim, Made(values=[[0, 0, 0.01], [0, 0.001, 0.01], [0, 0.002, 0.01]]))
    assert found.verdict == UNCLEAR and "half-way is 0" in found.why
    fall = EVALUATORS["metric_change"](claim | {"relative": True}, Made(values=[[0, 1, 2], [1, 2, 3]]))
    assert fall.verdict == UNCLEAR


# --- differences -----------------------------------------------------------------------------------------------------


def test_differences_hold_fail_and_stay_open(tmp_path):
    better = verdicts(scores(tmp_path / "a", {"sft": 0.5, "grpo@last": 0.4, "aspo@last": 0.6}))
    assert better["aspo_beats_grpo"]["verdict"] == better["gain_is_in_qa"]["verdict"] == HOLDS
    assert 15 < better["aspo_beats_grpo"]["measured"] < 25 and better["math_is_equal"]["verdict"] == FAILS
    worse = verdicts(scores(tmp_path / "b", {"sft": 0.5, "grpo@last": 0.6, "aspo@last": 0.4}))
    assert worse["aspo_beats_grpo"]["verdict"] == FAILS
    few = verdicts(scores(tmp_path / "c", {"sft": 0.5, "grpo@last": 0.5, "aspo@last": 0.52}, n=30))
    assert few["aspo_beats_grpo"]["verdict"] == UNCLEAR and "smallest detectable" in few["aspo_beats_grpo"]["why"]


def test_a_difference_is_that_of_the_records(tmp_path):
    inputs = scores(tmp_path, {"sft": 0.5, "grpo@last": 0.4, "aspo@last": 0.6})
    means = [np.mean([np.mean([row["em"] for row in inputs.scores(seed, each["name"])])
                      for each in made_up.BENCHMARKS for seed in MODELS[model]]) for model in ("aspo@last", "grpo@last")]
    found = verdicts(inputs)["aspo_beats_grpo"]
    assert found["measured"] == pytest.approx(100 * (means[0] - means[1]), abs=1e-4) and found["n"] == "1600 items"


def test_claims_on_one_column_are_corrected_together(tmp_path):
    levels = {"sft": 0.5, "grpo@last": 0.44, "aspo@last": 0.5}
    run = Run(scores(tmp_path, levels), claims(), **PARAMS)
    found = run._study("bamboogle")
    assert len(found) == 3  # gain, and the two drops from the start
    assert all(each.p_holm >= each.p for each in found.values()) and any(each.p_holm > each.p for each in found.values())


def test_what_a_run_lacks_is_said(tmp_path):
    found = verdicts(scores(tmp_path, {"sft": 0.5, "grpo@last": 0.4}), models={k: v for k, v in MODELS.items() if k != "published"})
    assert found["share_of_published"]["verdict"] == UNMEASURED and "not evaluated" in found["share_of_published"]["why"]
    assert found["sft_ties_published"]["why"] == "this run has no model published"
    assert found["aspo_beats_grpo"]["why"].startswith("aspo@last was not evaluated on gsm8k")
    assert found["bigram_effect"]["verdict"] == UNMEASURED and "does not occur" in found["bigram_effect"]["why"]


def test_one_seed_of_an_arm_decides_nothing_about_it(tmp_path):
    inputs = scores(tmp_path, {"published": 0.6, "sft": 0.3, "grpo@last": 0.4, "aspo@last": 0.6})
    found = verdicts(inputs, models=MODELS | {"aspo@last": ["aspo-step30-seed1"], "grpo@last": ["grpo-step30-seed1"]})
    for claim in ("aspo_beats_grpo", "gain_is_in_qa", "math_is_equal", "grpo_forgets", "share_of_published"):
        assert found[claim]["verdict"] == UNCLEAR and found[claim]["why"].startswith("one seed of "), claim
    assert found["sft_ties_published"]["verdict"] == FAILS  # no arm: these two checkpoints are all there is of them
    assert verdicts(inputs)["aspo_beats_grpo"]["verdict"] == HOLDS


def test_the_interval_of_a_ratio_holds_the_noise_of_training():
    """Three seeds of 2 points' spread, true ratio 0.96: items alone would cover it half of the time."""
    draw, covered, tried = np.random.default_rng(1), 0, 60
    claim = {"id": "x", "a": "a", "b": "b", "column": "x", "stated": 0.96, "tolerance": 0.02}
    for _ in range(tried):
        ease, chances = draw.random((1, 500, 1)), 0.36 + draw.normal(0, 0.02, 3)
        arrays = {"a": {"x": np.concatenate([ease < each for each in chances]).astype(float)},
                  "b": {"x": (ease < 0.375).astype(float)}}
        found = EVALUATORS["ratio"](claim, Made(scores=lambda model, column, arrays=arrays: arrays[model]))
        covered += found.lo <= 0.96 <= found.hi
    assert covered >= 0.88 * tried


@pytest.mark.parametrize(("won", "lost", "verdict"), [
    (5, 0, HOLDS), (5, 3, HOLDS), (2, 3, UNCLEAR), (4, 3, UNCLEAR), (0, 3, UNCLEAR), (0, 4, FAILS), (0, 0, UNCLEAR)])
def test_wins_are_counted_apart_from_losses(won, lost, verdict):
    """Of eight benchmarks five are claimed: four clear losses refute that, differences within chance do neither."""
    signs = [1] * won + [-1] * lost + [0] * (8 - won - lost)
    cells = {str(number): SimpleNamespace(difference=0.3 * sign or 0.02 * (-1) ** number, p_holm=0.01 if sign else 1.0)
             for number, sign in enumerate(signs)}
    run = Made(benchmarks=list(cells), comparison=lambda a, b, column: cells[column])
    found = EVALUATORS["wins"]({"a": "sft", "b": "published", "stated": 5}, run)
    assert found.verdict == verdict and found.why.startswith(f"{won} won and {lost} lost")
    assert found.measured == sum(each.difference > 0 for each in cells.values())


# --- everything, on made-up records ---------------------------------------------------------------------------------


def test_every_claim_gets_a_verdict_from_raw_records(everything):
    root, inputs = everything
    records = check(inputs, PARAMS)
    assert len(records) == len(claims()) >= 40
    assert {record["verdict"] for record in records} <= {HOLDS, FAILS, UNCLEAR, UNMEASURED}
    for record in records:
        if record["lo"] is not None:
            assert record["lo"] <= record["measured"] <= record["hi"], record["id"]
        assert record["why"]
    json.dumps(records)
    printed = table(records)
    assert len(printed.rows) == len(records) and printed.latex().count("{") == printed.latex().count("}")


def test_the_table_shows_that_a_direction_holds_and_the_number_does_not():
    told = {"section": "", "stated": 5, "paper_cells_give": None}
    printed = table([
        {"id": "a", "says": "five times as often"} | told | direction(1.15, 1.05, 1.26, 5, null=1).as_json(),
        {"id": "b", "says": "about five times"} | told | direction(4.8, 2, 9, 5, null=1).as_json(),
        {"id": "c", "says": "counted"} | told | exact(5, True, "counted").as_json()])
    shown = [dict(zip(printed.columns, row)) for row in printed.rows]
    assert [row["verdict"] for row in shown] == [HOLDS] * 3
    assert [row["stated inside"] for row in shown] == ["no", "yes", ""]
    assert "the interval excludes it for 1 that hold" in " ".join(printed.notes)
    for spelling in (printed.csv(), printed.markdown(), printed.latex(), page({"": printed})):
        assert "stated inside" in spelling


def test_counted_claims(everything):
    found = verdicts(everything[1])
    assert found["no_mixed_trajectories"]["verdict"] == HOLDS
    assert (found["python_only_share"]["measured"], found["python_only_share"]["verdict"]) == (0.67, FAILS)
    assert (found["compute_share"]["measured"], found["compute_share"]["verdict"]) == (0.024, FAILS)  # 2.4 %, not 3 to 5
    assert found["interval_30"]["measured"] == pytest.approx(16.85, abs=0.01)
    assert found["epoch_2_is_best"]["verdict"] == HOLDS


def test_bigram_ratio_is_that_of_the_counts(everything):
    run = Run(everything[1], claims(), **PARAMS)
    found = run.trajectories()
    shares = []
    for bigram in (("python", "answer"), ("python", "think")):
        hits = sum(each.bigrams.count(bigram) for each in found if each.correct)
        shares.append(hits / sum(each.bigrams.count(bigram) for each in found))
    record = verdicts(everything[1])["bigram_effect"]
    assert record["measured"] == pytest.approx(shares[0] / shares[1], abs=1e-5) and record["verdict"] == HOLDS
    assert record["lo"] > 1


def test_training_claims_use_seeds_and_one_seed_decides_nothing(everything, tmp_path):
    found = verdicts(everything[1])
    assert found["grpo_learns"]["n"] == "3 seeds" and found["grpo_learns"]["verdict"] == HOLDS
    assert found["responses_shorten"]["measured"] < -0.2
    made_up.write_metrics(tmp_path, seeds=(1,))
    one = verdicts(Inputs(metrics=[tmp_path / "runs" / "rl"], scores=[everything[0] / "scores"],
                          traces=[everything[0] / "traces"], data=[everything[0] / "sft.json"]))
    assert one["grpo_learns"]["verdict"] == UNCLEAR and one["epoch_2_is_best"]["verdict"] == UNMEASURED


def test_a_claim_more_moves_no_other(everything, monkeypatch):
    before = verdicts(everything[1])
    monkeypatch.setitem(EVALUATORS, "none", lambda claim, run: exact(1, True, "made"))
    import tir.claims.report as report

    more = [{"id": "x", "section": "", "says": "", "kind": "none"}, *claims()]
    monkeypatch.setattr(report, "claims", lambda: more)
    after = verdicts(everything[1])
    assert after.pop("x")["verdict"] == HOLDS and after == before


# --- the paper's own numbers -----------------------------------------------------------------------------------------


def test_what_the_papers_cells_give():
    """`cells` of a claim follow from Table 5 and Table 3 as printed."""
    cells = {each["id"]: each["cells"] for each in claims() if "cells" in each}
    means = {label: float(np.mean(row[:-1])) for label, row in paper()["table5"].items() if label != "columns"}
    assert means["ASPO @ 30"] - means["GRPO @ 30"] == pytest.approx(cells["aspo_beats_grpo"], abs=0.005)
    assert means["ASPO @ 30"] / means["published"] == pytest.approx(cells["share_of_published"], abs=0.0005)
    shares = {name: row[0] / (row[0] + row[1]) for name, row in paper()["table3"].items() if name != "columns"}
    assert shares["python→answer"] / shares["python→think"] == pytest.approx(cells["bigram_effect"], abs=0.005)
    assert 30 * 32 * 4 / 160_000 == cells["compute_share"]


def test_stated_numbers_are_the_tables_differences():
    table5, table6 = paper()["table5"], paper()["table6"]
    column = {"bamboogle": "Bamb", "musique": "MuSiQue", "hotpotqa": "HotpotQA", "math500": "MATH500"}
    row = {"aspo@last": "ASPO @ 30", "grpo@last": "GRPO @ 30", "sft": "SFT", "gamma_only@last": "gamma-only @ 30"}
    tried = 0
    for each in claims():
        if each["kind"] == "difference" and each["column"] in column and {each["a"], each["b"]} <= set(row):
            source = table6 if "gamma_only@last" in (each["a"], each["b"]) else table5
            place = source["columns"].index(column[each["column"]])
            assert source[row[each["a"]]][place] - source[row[each["b"]]][place] == pytest.approx(each["stated"], abs=0.051)
            tried += 1
    assert tried >= 7


def test_the_script_as_the_rule_calls_it(everything, tmp_path):
    root, _ = everything
    output = tmp_path / "claims.json"
    subprocess.run([sys.executable, "-m", "scripts.check_claims", "--scores", root / "scores", "--traces", root / "traces",
                    "--metrics", root / "runs" / "rl", "--logs", root / "runs" / "sft", "--data", root / "sft.json",
                    "--output", output, "--params", json.dumps(PARAMS)], cwd=ROOT, check=True, capture_output=True)
    assert len(json.loads(output.read_text())) == len(claims())
    assert (tmp_path / "claims.md").exists() and (tmp_path / "claims.csv.provenance.json").exists()
