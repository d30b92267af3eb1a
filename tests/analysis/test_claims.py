"""Claims: verdicts on generated records with known effects, and numbers recomputed from the paper's tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support import made_up
from support.paths import ROOT
from support.rl_inputs import rows_file

from tir.analysis.claims.evaluators import EVALUATORS
from tir.analysis.claims.report import check, claims, table
from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import (
    FAILS,
    HOLDS,
    UNCLEAR,
    UNMEASURED,
    NotMeasured,
    direction,
    equivalence,
    exact,
    value,
)
from tir.analysis.tables.files import page, to_csv, to_latex, to_markdown
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.reference import paper
from tir.analysis.tables.trajectories import Behaviour, occurrences

MODELS = {"published": ["published"], "sft": ["sft"]} | {
    f"{arm}@last": [f"{arm}-step30-seed{seed}" for seed in (1, 2, 3)] for arm in ("grpo", "aspo")
}
SETS = [
    {"model": "published", "benchmark": each["name"], "task": each["task"], "n": None} for each in made_up.BENCHMARKS
]
PARAMS = {
    "models": MODELS,
    "benchmarks": made_up.BENCHMARKS,
    "sets": SETS,
    "statistics": {"resamples": 1000, "seed": 0},
    "facts": {"trajectories": 3840, "steps": 30},
}


def scores(root: Path, levels: dict[str, float], n: int = 200) -> Inputs:
    """0/1 scores on every benchmark; `levels`: model (`sft`, `aspo@last`) -> probability of a correct answer."""
    for model, level in levels.items():
        for seed, name in enumerate(MODELS[model]):
            for number, each in enumerate(made_up.BENCHMARKS):
                draw = np.random.default_rng([number, round(1000 * level), seed])
                made_up.write_lines(
                    root / "scores" / name / f"{each['name']}.jsonl",
                    [
                        {
                            "id": str(item),
                            "sample": 0,
                            "em": float(right),
                            "f1": float(right),
                            "acc": float(right),
                            "correct": bool(right),
                        }
                        for item, right in enumerate(draw.random(n) < level)
                    ],
                )
    return Inputs(scores=[root / "scores"])


def verdicts(inputs: Inputs, **changed) -> dict[str, dict]:
    """Claim id -> record, with some of `PARAMS` changed."""
    return {record["id"]: record for record in check(inputs, PARAMS | changed)}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    root = made_up.everything(tmp_path_factory.mktemp("records"))
    return root, Inputs(
        scores=[root / "scores"],
        traces=[root / "traces"],
        metrics=[root / "runs" / "rl"],
        logs=[root / "runs" / "sft"],
        data=[root / "sft.json"],
    )


# --- rules of decision ---------------------------------------------------------------------------------------------


def test_a_direction_needs_an_interval_that_excludes_the_null():
    assert direction(2, 1, 3, stated=1.7).verdict == HOLDS and direction(2, 1, 3, stated=1.7).stated_inside
    assert direction(-2, -3, -1, stated=1.7).verdict == FAILS
    assert direction(2, -1, 5, stated=1.7).verdict == UNCLEAR
    assert direction(2, 1, 3, stated=1.7, p=0.06).verdict == UNCLEAR  # a corrected p-value replaces the interval
    assert direction(4.8, 2, 9, stated=5, null=1).verdict == HOLDS


def test_equivalence_needs_an_interval_within_the_margin():
    assert equivalence(-0.4, -9, 8, stated=-0.4, margin=5).verdict == UNCLEAR
    assert equivalence(-0.4, -3, 2, stated=-0.4, margin=5).verdict == HOLDS
    assert equivalence(-4, -7, -1, stated=-0.4, margin=5).verdict == FAILS


def test_a_value_needs_an_interval_within_the_tolerance():
    assert value(0.96, 0.95, 0.97, stated=0.96, tolerance=0.02).verdict == HOLDS
    assert value(0.83, 0.815, 0.845, stated=0.806, tolerance=0.1).verdict == HOLDS  # near enough, if not the same
    assert value(0.992, 0.985, 1.01, stated=0.96, tolerance=0.02).verdict == FAILS
    assert value(0.992, 0.97, 1.01, stated=0.96, tolerance=0.02).verdict == UNCLEAR
    assert value(0.96, 0.8, 1.1, stated=0.96, tolerance=0.02).verdict == UNCLEAR
    assert exact(0.024, False, "counted").verdict == FAILS


@pytest.mark.parametrize("numbers", [(1.1, np.nan, np.nan), (1.1, np.nan, 2.0), (np.inf, 2.0, 3.0), (np.nan, 2.0, 3.0)])
def test_nan_and_infinite_numbers_leave_a_claim_open(numbers):
    """A comparison with NaN is false, so `not lo <= 0 <= hi` would be true for an interval of NaN."""
    for found in (direction(*numbers, 5, null=1.0), equivalence(*numbers, 0, 5), value(*numbers, 2.5, 1)):
        assert found.verdict == UNCLEAR and found.lo is found.hi is None and found.stated_inside is None
    assert exact(float("nan"), False, "").verdict == UNCLEAR
    json.dumps(direction(*numbers, 5).as_json(), allow_nan=False)


class FakeRun:
    """The attributes of `Run` that an evaluator reads, set by keyword."""

    resamples = 2000

    def __init__(self, **attributes):
        self.__dict__ |= attributes

    def random(self, name):
        return np.random.default_rng(0)

    def trajectories(self, task=None):
        return self.behaviours

    def trajectory_metrics(self):
        return self.metrics

    def curve(self, arm, metric, steps):
        return np.array(self.values)

    def read_steps(self, arm, metric, steps):
        return np.array(self.__dict__.get("read", steps))


def trajectory(actions: tuple[str, ...], correct: bool) -> Behaviour:
    return Behaviour("gsm8k", str(next(NUMBERS)), "math", actions, {}, 3, correct)


def trajectories(actions: tuple[str, ...], correct: bool, times: int) -> list[Behaviour]:
    return [trajectory(actions, correct) for _ in range(times)]


NUMBERS = count()
ANSWERS, RETHINKS = ("think", "python", "answer"), ("think", "python", "think", "answer")
BIGRAMS = {"id": "x", "first": ["python", "answer"], "second": ["python", "think"], "stated": 5}


def test_a_ratio_has_no_interval_if_many_resamples_lack_the_bigram():
    frequent = trajectories(ANSWERS, True, 30) + trajectories(ANSWERS, False, 10)
    two = [trajectory(RETHINKS, True), trajectory(RETHINKS, False)]
    assert EVALUATORS["bigram_ratio"](BIGRAMS, FakeRun(behaviours=frequent + two)).verdict == UNCLEAR
    five = [trajectory(RETHINKS, True), *trajectories(RETHINKS, False, 4)]  # absent from 0.7 % of resamples of 45 items
    finding = EVALUATORS["bigram_ratio"](BIGRAMS, FakeRun(behaviours=frequent + five))
    assert finding.lo is not None and finding.lo < finding.measured == pytest.approx(0.75 / 0.2)


def test_repeated_samples_of_an_item_do_not_narrow_an_interval():
    """Four equal samples of an item give the same interval as one; four separate items give a narrower one."""
    behaviours = [
        trajectory(kind, number % 5 < right) for kind, right in ((ANSWERS, 4), (RETHINKS, 1)) for number in range(20)
    ]
    behaviours = [replace(each, offset=100 * number % 17) for number, each in enumerate(behaviours)]
    for kind in ("bigram_ratio", "offset_difference"):
        once, repeated = (EVALUATORS[kind](BIGRAMS, FakeRun(behaviours=behaviours * times)) for times in (1, 4))
        assert (once.measured, once.lo, once.hi) == pytest.approx((repeated.measured, repeated.lo, repeated.hi)), kind
        items = [replace(each, item=f"{each.item}-{copy}") for copy in range(4) for each in behaviours]
        separate = EVALUATORS[kind](BIGRAMS, FakeRun(behaviours=items))
        assert separate.hi - separate.lo < 0.75 * (once.hi - once.lo), kind


def test_a_metric_whose_interval_contains_0_leaves_the_claim_about_every_metric_open():
    """Under F1 the difference is small with a narrow interval, under exact match larger with a wide one."""
    behaviours = trajectories(ANSWERS, True, 30) + trajectories(RETHINKS, False, 10)
    f1, em = [0.30] * 30 + [0.05] * 10, [1.0] * 19 + [0.0] * 11 + [1.0] * 3 + [0.0] * 7
    evaluate = EVALUATORS["bigram_every_metric"]
    assert evaluate(BIGRAMS, FakeRun(behaviours=behaviours, metrics={"mean F1": f1})).verdict == HOLDS
    both = evaluate(BIGRAMS, FakeRun(behaviours=behaviours, metrics={"mean F1": f1, "exact match": em}))
    assert both.verdict == UNCLEAR and "exact match" in both.why and both.measured == pytest.approx(19 / 30 - 0.3)
    negated = {"mean F1": f1, "other": [-score for score in f1]}
    opposite = evaluate(BIGRAMS, FakeRun(behaviours=behaviours, metrics=negated))
    assert opposite.verdict == FAILS and "other" in opposite.why


def test_growth_from_0_leaves_a_claim_open():
    claim = {"arm": "aspo", "metric": "actor/kl_loss", "steps": [16, 30], "stated": 3}
    growth = EVALUATORS["metric_growth"](claim, FakeRun(values=[[0, 0.01], [0.001, 0.01], [0.002, 0.01]]))
    assert growth.verdict == UNCLEAR and "earlier value is 0" in growth.why
    change = EVALUATORS["metric_change"](claim | {"relative": True}, FakeRun(values=[[0, 2], [1, 3]]))
    assert change.verdict == UNCLEAR


def test_a_curve_is_read_at_the_papers_steps_or_the_same_parts_of_a_shorter_run(tmp_path):
    for seed in (1, 2):
        rows = [{"step": step, "actor/kl_loss": 100 * seed + step} for step in range(1, 21)]
        made_up.write_lines(tmp_path / f"aspo/seed{seed}/metrics.jsonl", rows)
    inputs = Inputs(metrics=[tmp_path])
    for steps, paper_steps, read in ((20, [16, 30], [11, 20]), (30, [1, 16], [1, 16])):
        run = Run(inputs, [], **PARAMS | {"facts": {"trajectories": 1, "steps": steps}})
        assert run.curve("aspo", "actor/kl_loss", paper_steps).tolist() == [
            [100 + s for s in read],
            [200 + s for s in read],
        ]
    few = Run(inputs, [], **PARAMS | {"facts": {"trajectories": 1, "steps": 1}})
    with pytest.raises(NotMeasured, match="too few steps"):
        few.curve("aspo", "actor/kl_loss", [16, 30])


def test_the_slope_ratio_counts_the_steps_between_the_points():
    claim = {"arm": "grpo", "metric": "validation", "steps": [0, 10, 30], "stated": 2.5}
    found = EVALUATORS["slope_ratio"](claim, FakeRun(values=[[0, 1, 5.0], [0, 1, 5.1]]))
    assert found.measured == pytest.approx(2.025)  # 4.05 in 20 steps, after 1 in 10 steps
    # A straight line, validated every 4 of 20 steps: the middle value is that of step 8.
    straight = FakeRun(values=[[0.1, 0.26, 0.5], [0.2, 0.36, 0.6]], read=[0, 8, 20])
    found = EVALUATORS["slope_ratio"](claim | {"steps": [0, 15, 30]}, straight)
    assert found.measured == pytest.approx(1) and found.verdict == UNCLEAR


# --- differences -----------------------------------------------------------------------------------------------------


def test_claims_of_differences_hold_fail_or_stay_open(tmp_path):
    better = verdicts(scores(tmp_path / "a", {"sft": 0.5, "grpo@last": 0.4, "aspo@last": 0.6}))
    assert better["aspo_beats_grpo"]["verdict"] == better["gain_on_qa"]["verdict"] == HOLDS
    assert 15 < better["aspo_beats_grpo"]["measured"] < 25 and better["math_is_equal"]["verdict"] == FAILS
    worse = verdicts(scores(tmp_path / "b", {"sft": 0.5, "grpo@last": 0.6, "aspo@last": 0.4}))
    assert worse["aspo_beats_grpo"]["verdict"] == FAILS
    few = verdicts(scores(tmp_path / "c", {"sft": 0.5, "grpo@last": 0.5, "aspo@last": 0.52}, n=30))
    assert few["aspo_beats_grpo"]["verdict"] == UNCLEAR and "smallest detectable" in few["aspo_beats_grpo"]["why"]


def test_a_measured_difference_equals_the_difference_of_the_records_means(tmp_path):
    inputs = scores(tmp_path, {"sft": 0.5, "grpo@last": 0.4, "aspo@last": 0.6})
    means = [
        np.mean(
            [
                np.mean([row["em"] for row in inputs.scores(seed, each["name"])])
                for each in made_up.BENCHMARKS
                for seed in MODELS[model]
            ]
        )
        for model in ("aspo@last", "grpo@last")
    ]
    found = verdicts(inputs)["aspo_beats_grpo"]
    assert found["measured"] == pytest.approx(100 * (means[0] - means[1]), abs=1e-4)
    assert found["n"] == "1600 items, 3 seeds"


def test_claims_on_one_column_are_corrected_together(tmp_path):
    levels = {"sft": 0.5, "grpo@last": 0.44, "aspo@last": 0.5}
    run = Run(scores(tmp_path, levels), claims(), **PARAMS)
    found = run._study("bamboogle")
    assert len(found) == 3  # ASPO - GRPO, GRPO - SFT, ASPO - SFT
    assert all(each.p_holm >= each.p for each in found.values()) and any(
        each.p_holm > each.p for each in found.values()
    )


def test_a_claim_without_its_records_is_not_measured_and_says_why(tmp_path):
    found = verdicts(
        scores(tmp_path, {"sft": 0.5, "grpo@last": 0.4}), models={k: v for k, v in MODELS.items() if k != "published"}
    )
    assert (
        found["share_of_published"]["verdict"] == UNMEASURED and "not evaluated" in found["share_of_published"]["why"]
    )
    assert found["sft_ties_published"]["why"] == "this run has no model published"
    assert found["aspo_beats_grpo"]["why"].startswith("aspo@last was not evaluated on gsm8k")
    assert found["bigram_effect"]["verdict"] == UNMEASURED and "does not occur" in found["bigram_effect"]["why"]


def test_claims_about_an_arm_with_one_seed_stay_open(tmp_path):
    inputs = scores(tmp_path, {"published": 0.6, "sft": 0.3, "grpo@last": 0.4, "aspo@last": 0.6})
    found = verdicts(inputs, models=MODELS | {"aspo@last": ["aspo-step30-seed1"], "grpo@last": ["grpo-step30-seed1"]})
    for claim in ("aspo_beats_grpo", "gain_is_in_qa", "math_is_equal", "grpo_forgets", "share_of_published"):
        assert found[claim]["verdict"] == UNCLEAR and found[claim]["why"].startswith("one seed of "), claim
        assert found[claim]["measured"] is not None and found[claim]["lo"] is found[claim]["hi"] is None, claim
    assert found["sft_ties_published"]["verdict"] == FAILS  # these two models are single checkpoints, not arms
    assert verdicts(inputs)["aspo_beats_grpo"]["verdict"] == HOLDS


def _gains(root, on_math: float, on_qa: float) -> dict[str, dict]:
    """Verdicts where ASPO is better than GRPO by so much on the two kinds of benchmarks."""
    rng = np.random.default_rng(0)
    for each in made_up.BENCHMARKS:
        gain, ease = on_qa if each["task"] == "qa" else on_math, rng.random(150)
        for arm, level in (("grpo", 0.4), ("aspo", 0.4 + gain)):
            for seed in (1, 2, 3):
                right = ease < level + rng.normal(0, 0.005)
                rows = [
                    {
                        "id": str(item),
                        "sample": 0,
                        "em": float(one),
                        "f1": float(one),
                        "acc": float(one),
                        "correct": bool(one),
                    }
                    for item, one in enumerate(right)
                ]
                made_up.write_lines(root / f"scores/{arm}-step30-seed{seed}/{each['name']}.jsonl", rows)
    return verdicts(Inputs(scores=[root / "scores"]))


def test_a_gain_is_concentrated_in_qa_if_it_is_larger_there_than_on_math(tmp_path):
    both = _gains(tmp_path / "both", 0.15, 0.15)
    assert both["gain_on_qa"]["verdict"] == both["aspo_beats_grpo"]["verdict"] == HOLDS
    assert both["gain_is_in_qa"]["verdict"] == UNCLEAR and abs(both["gain_is_in_qa"]["measured"]) < 6
    only = _gains(tmp_path / "only", 0.0, 0.15)
    assert only["gain_is_in_qa"]["verdict"] == HOLDS
    measured = only["gain_on_qa"]["measured"] - only["math_is_equal"]["measured"]
    assert only["gain_is_in_qa"]["measured"] == pytest.approx(measured, abs=1e-4)


def test_the_interval_of_a_ratio_includes_training_noise():
    """Three seeds with a standard deviation of 2 points, true ratio 0.96. Without seed variance coverage is 50 %."""
    draw, covered, tried = np.random.default_rng(1), 0, 60
    claim = {"id": "x", "a": "a", "b": "b", "column": "x", "stated": 0.96, "tolerance": 0.02}
    for _ in range(tried):
        ease, chances = draw.random((1, 500, 1)), 0.36 + draw.normal(0, 0.02, 3)
        arrays = {
            "a": {"x": np.concatenate([ease < each for each in chances]).astype(float)},
            "b": {"x": (ease < 0.375).astype(float)},
        }
        found = EVALUATORS["ratio"](claim, FakeRun(scores=lambda model, column, arrays=arrays: arrays[model]))
        covered += found.lo <= 0.96 <= found.hi
    assert covered >= 0.88 * tried


def test_equal_models_do_not_have_an_exact_ratio_nor_equal_seeds_an_exact_change():
    scores = {"x": (np.arange(40) < 20).astype(float).reshape(1, 40, 1)}
    claim = {"id": "x", "a": "a", "b": "b", "column": "x", "stated": 0.96, "tolerance": 0.02}
    found = EVALUATORS["ratio"](claim, FakeRun(scores=lambda model, column: scores))
    assert found.measured == 1 and found.lo < 0.96 < found.hi and found.verdict == UNCLEAR
    claim = {"arm": "aspo", "metric": "validation", "steps": [0, 10], "stated": -0.02}
    found = EVALUATORS["metric_change"](claim, FakeRun(curve=lambda *_: np.array([[0.5, 0.484375]] * 3)))
    assert (found.verdict, found.lo, found.hi) == (UNCLEAR, None, None)


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [(5, 0, HOLDS), (5, 3, HOLDS), (2, 3, UNCLEAR), (4, 3, UNCLEAR), (0, 3, UNCLEAR), (0, 4, FAILS), (0, 0, UNCLEAR)],
)
def test_wins_and_losses_are_counted_separately(won, lost, verdict):
    """Five wins of eight are claimed. Four significant losses contradict that; other differences leave it open."""
    signs = [1] * won + [-1] * lost + [0] * (8 - won - lost)
    cells = {
        str(number): SimpleNamespace(difference=0.3 * sign or 0.02 * (-1) ** number, p_holm=0.009 if sign else 1.0)
        for number, sign in enumerate(signs)
    }
    run = FakeRun(benchmarks=list(cells), comparison=lambda a, b, column: cells[column])
    found = EVALUATORS["wins"]({"a": "sft", "b": "published", "stated": 5}, run)
    assert found.verdict == verdict and found.why.startswith(f"{won} won and {lost} lost")
    assert found.measured == sum(each.difference > 0 for each in cells.values())


# --- all claims, on generated records -------------------------------------------------------------------------------


def test_every_claim_gets_a_verdict_from_raw_records(everything):
    root, inputs = everything
    records = check(inputs, PARAMS)
    assert len(records) == len(claims()) >= 60
    assert {record["verdict"] for record in records} <= {HOLDS, FAILS, UNCLEAR, UNMEASURED}
    for record in records:
        if record["lo"] is not None:
            assert record["lo"] <= record["measured"] <= record["hi"], record["id"]
        assert record["why"]
    json.dumps(records)
    printed = table(records)
    assert len(printed.rows) == len(records) and to_latex(printed).count("{") == to_latex(printed).count("}")


def test_the_table_shows_whether_the_stated_number_holds_beside_the_direction():
    claim = {"section": "", "stated": 5, "paper_cells_give": None}
    printed = table(
        [
            {"id": "a", "says": "five times as often"} | claim | direction(1.15, 1.05, 1.26, 5, null=1).as_json(),
            {"id": "b", "says": "about five times"} | claim | direction(4.8, 2, 9, 5, null=1).as_json(),
            {"id": "c", "says": "counted"} | claim | exact(5, True, "counted").as_json(),
        ]
    )
    shown = [dict(zip(printed.columns, row)) for row in printed.rows]
    assert [row["verdict"] for row in shown] == [HOLDS] * 3
    assert [row["stated inside"] for row in shown] == ["no", "yes", ""]
    assert "does not for 1 of the claims that hold" in " ".join(printed.notes)
    for text in (to_csv(printed), to_markdown(printed), to_latex(printed), page({"": printed})):
        assert "stated inside" in text


def test_claims_about_counts(everything):
    found = verdicts(everything[1])
    assert found["no_mixed_trajectories"]["verdict"] == HOLDS
    assert (found["python_only_share"]["measured"], found["python_only_share"]["verdict"]) == (0.67, FAILS)
    assert (found["compute_share"]["measured"], found["compute_share"]["verdict"]) == (
        0.024,
        FAILS,
    )  # 2.4 %, not 3 to 5
    assert found["interval_30"]["measured"] == pytest.approx(16.85, abs=0.01)
    assert found["epoch_2_is_best"]["verdict"] == HOLDS


def test_a_generated_world_measures_no_claim_about_real_things_and_shows_no_number_of_the_paper(everything):
    origin = {"data": "generated world", "model": "base", "seeds": 3}
    records = check(everything[1], PARAMS | {"origin": origin})
    real = {claim["id"] for claim in claims() if "real" in claim}
    assert real >= {"compute_share", "python_only_share", "no_mixed_trajectories", "published_gsm8k", "epoch_2_is_best"}
    for record in records:
        assert (record["verdict"] == "not measured (generated world)") == (record["id"] in real)
        assert not {"stated", "paper_cells_give", "stated_inside"} & set(record)
        assert record["id"] not in real or record["measured"] is None
    assert next(each for each in records if each["id"] == "bigram_effect")["verdict"] == HOLDS  # no real thing
    printed = table(records, "generated world, 1.6M parameters, 3 seeds")
    by_value = [claim for claim in claims() if "tolerance" in claim]  # their reasons name the paper's number
    assert by_value and all("real" in claim for claim in by_value)
    assert "stated" not in printed.columns and "generated world, 1.6M parameters, 3 seeds" in printed.caption


def test_no_claim_has_its_number_in_its_text():
    """The text is shown beside the numbers of a generated world; only sizes and names may have digits."""
    for claim in claims():
        text = claim["says"].replace("n = 30", "").replace("n = 500", "").replace("95 %", "")
        text = re.sub(r"GSM8K|MATH500|AIME2[45]|2Wiki|epoch \d|ratio below 1", "", text)
        assert not re.search(r"\d", text), claim["id"]


def test_claims_about_shares_and_values(everything, tmp_path):
    root, inputs = everything
    found = verdicts(inputs)
    trajectories = Run(inputs, claims(), **PARAMS).trajectories()
    hits, trials = occurrences(trajectories, ("python", "answer"))
    share = found["python_answer_share"]
    assert share["measured"] == pytest.approx(hits.sum() / trials.sum(), abs=1e-6) and share["lo"] < share["hi"]
    gsm8k = [record["em"] for record in inputs.scores("published", "gsm8k")]
    assert found["published_gsm8k"]["measured"] == pytest.approx(100 * np.mean(gsm8k), abs=1e-4)
    assert (found["trajectories"]["measured"], found["trajectories"]["verdict"]) == (3840, HOLDS)
    assert (
        found["variance_reduction"]["measured"] == pytest.approx(0.9)
        and found["variance_reduction"]["verdict"] == HOLDS
    )
    assert found["search_only_share"]["measured"] == 0.24 and found["no_tools_share"]["measured"] == 0.09
    assert found["rl_data_mixture"]["verdict"] == UNMEASURED
    prompts = rows_file(tmp_path / "rl_train.parquet", *"1234")
    rows = pd.read_parquet(prompts).assign(ability=["math", "qa", "qa", "math"])
    rows.to_parquet(prompts)
    claim = next(each for each in claims() if each["id"] == "rl_data_mixture")
    mixture = EVALUATORS["data_mixture"](claim, FakeRun(data=lambda *suffixes: [prompts]))
    assert (mixture.measured, mixture.verdict, mixture.n) == (0.5, FAILS, "4 prompts")


def test_well_formed_trajectories_call_a_tool_and_keep_the_format():
    def trace(text, calls):
        tool = [{"by": "tool", "text": "<result>\n1\n</result>"}] * calls
        return {
            "segments": [{"by": "model", "text": text[0]}, *tool, {"by": "model", "text": text[1]}],
            "n_python": calls,
            "n_search": 0,
        }

    call, answer = "<think>t</think><python>print(1)</python>", "<answer>\\boxed{1}</answer>"
    traces = [trace((call, answer), 1), trace((call, "<answer>1</answer>"), 1), trace(("<think>t</think>", answer), 0)]
    claim = {"models": ["sft-medium"], "benchmark": "gsm8k", "stated": 0.9, "tolerance": 0.1}
    found = EVALUATORS["well_formed_share"](claim, FakeRun(evaluated_traces=lambda models, benchmark: traces))
    assert found.measured == pytest.approx(1 / 3) and found.n == "3 trajectories"


def test_bigram_ratio_equals_the_ratio_of_the_counted_shares(everything):
    trajectories = Run(everything[1], claims(), **PARAMS).trajectories()
    shares = []
    for bigram in (("python", "answer"), ("python", "think")):
        hits = sum(each.bigrams.count(bigram) for each in trajectories if each.correct)
        shares.append(hits / sum(each.bigrams.count(bigram) for each in trajectories))
    record = verdicts(everything[1])["bigram_effect"]
    assert record["measured"] == pytest.approx(shares[0] / shares[1], abs=1e-5) and record["verdict"] == HOLDS
    assert record["lo"] > 1


def test_training_claims_need_several_seeds(everything, tmp_path):
    found = verdicts(everything[1])
    assert found["grpo_learns"]["n"] == "3 seeds" and found["grpo_learns"]["verdict"] == HOLDS
    assert found["responses_shorten"]["measured"] < -0.2
    made_up.write_metrics(tmp_path, seeds=(1,))
    one = verdicts(
        Inputs(
            metrics=[tmp_path / "runs" / "rl"],
            scores=[everything[0] / "scores"],
            traces=[everything[0] / "traces"],
            data=[everything[0] / "sft.json"],
        )
    )
    assert one["grpo_learns"]["verdict"] == UNCLEAR and one["epoch_2_is_best"]["verdict"] == UNMEASURED


def test_a_new_claim_does_not_change_the_others(everything, monkeypatch):
    before = verdicts(everything[1])
    monkeypatch.setitem(EVALUATORS, "none", lambda claim, run: exact(1, True, "made"))
    import tir.analysis.claims.report as report

    more = [{"id": "x", "section": "", "says": "", "kind": "none"}, *claims()]
    monkeypatch.setattr(report, "claims", lambda: more)
    after = verdicts(everything[1])
    assert after.pop("x")["verdict"] == HOLDS and after == before


# --- the paper's numbers ---------------------------------------------------------------------------------------------


def test_cells_of_claims_follow_from_the_papers_tables():
    cells = {each["id"]: each["cells"] for each in claims() if "cells" in each}
    means = {label: float(np.mean(row[:-1])) for label, row in paper()["table5"].items() if label != "columns"}
    assert means["ASPO @ 30"] - means["GRPO @ 30"] == pytest.approx(cells["aspo_beats_grpo"], abs=0.005)
    assert means["ASPO @ 30"] / means["published"] == pytest.approx(cells["share_of_published"], abs=0.0005)
    shares = {name: row[0] / (row[0] + row[1]) for name, row in paper()["table3"].items() if name != "columns"}
    assert shares["python→answer"] / shares["python→think"] == pytest.approx(cells["bigram_effect"], abs=0.005)
    assert 30 * 32 * 4 / 160_000 == cells["compute_share"]


def test_stated_differences_follow_from_the_papers_tables():
    table5, table6 = paper()["table5"], paper()["table6"]
    column = {"bamboogle": "Bamb", "musique": "MuSiQue", "hotpotqa": "HotpotQA", "math500": "MATH500"}
    row = {"aspo@last": "ASPO @ 30", "grpo@last": "GRPO @ 30", "sft": "SFT", "gamma_only@last": "gamma-only @ 30"}
    checked = 0
    for each in claims():
        if each["kind"] == "difference" and each["column"] in column and {each["a"], each["b"]} <= set(row):
            source = table6 if "gamma_only@last" in (each["a"], each["b"]) else table5
            place = source["columns"].index(column[each["column"]])
            assert source[row[each["a"]]][place] - source[row[each["b"]]][place] == pytest.approx(
                each["stated"], abs=0.051
            )
            checked += 1
    assert checked >= 7


def test_the_script_writes_the_records_and_the_table(everything, tmp_path):
    root, _ = everything
    output = tmp_path / "claims.json"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.check_claims",
            "--scores",
            root / "scores",
            "--traces",
            root / "traces",
            "--metrics",
            root / "runs" / "rl",
            "--logs",
            root / "runs" / "sft",
            "--data",
            root / "sft.json",
            "--output",
            output,
            "--params",
            json.dumps(PARAMS),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert len(json.loads(output.read_text())) == len(claims())
    assert (tmp_path / "claims.md").exists() and (tmp_path / "claims.csv.provenance.json").exists()
