"""The tables and the figure of a study: differences to the baseline, planned power, the phase diagram."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support import made_up

from tir.analysis.contrast import contrast
from tir.analysis.figures import draw
from tir.analysis.outcomes import measured, over_seeds
from tir.analysis.tables import build
from tir.analysis.tables.effects import corrections
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.power import Variances, smallest, variances
from tir.common.errors import DataError

MATH = {"name": "gsm8k", "label": "GSM8K", "task": "math", "metric": "em"}
QA = {"name": "hotpotqa", "label": "HotpotQA", "task": "qa", "metric": "f1"}
TEXTS = {
    "closes": "<python>1</python><answer>1</answer>",
    "rethinks": "<python>1</python><think>no</think><answer>2</answer>",
}
TEXTS["guesses"] = "<answer>1</answer>"


def write(root, model, benchmark, scores, kinds, tokens=10):
    """Score and trace records of one sample per item: scores, and which of `TEXTS` each trajectory is."""
    rows = [
        {"id": str(item), "sample": 0, "em": score, "f1": score, "correct": score >= 0.5}
        for item, score in enumerate(scores)
    ]
    made_up.write_lines(root / "scores" / model / f"{benchmark}.jsonl", rows)
    traces = [
        {
            "id": str(item),
            "sample": 0,
            "segments": [{"by": "model", "text": "ab" * item + TEXTS[kind]}],
            "first_tool_offset": -1 if kind == "guesses" else 2 * item,
            "finish": "length" if kind == "guesses" else "answer",
            "usage": {"response_tokens": tokens + item},
        }
        for item, kind in enumerate(kinds)
    ]
    made_up.write_lines(root / "traces" / model / f"{benchmark}.jsonl", traces)


def metrics(root, arm, seed, divergence):
    rows = [{"step": step, "actor/kl_loss": divergence * step, "actor/entropy_loss": 1.0} for step in range(1, 9)]
    made_up.write_lines(root / "runs/rl" / arm / f"seed{seed}" / "metrics.jsonl", rows)


CLOSES, RETHINKS = ["closes"] * 4, ["rethinks"] * 4


@pytest.fixture
def study(tmp_path):
    """Two arms, two seeds, four items of math and of questions. Returns inputs and params."""
    for seed in (1, 2):
        write(tmp_path, f"grpo-step8-seed{seed}", "gsm8k", [1, 0, 0, 1], RETHINKS)
        write(tmp_path, f"grpo-step8-seed{seed}", "hotpotqa", [1, 1, 0, 0], CLOSES)
        metrics(tmp_path, "grpo", seed, 0.1)
        metrics(tmp_path, "aspo", seed, 0.1 * (seed + 1))
    write(tmp_path, "aspo-step8-seed1", "gsm8k", [1, 1, 1, 1], [*CLOSES[:3], "guesses"], tokens=12)
    write(tmp_path, "aspo-step8-seed2", "gsm8k", [1, 1, 0, 1], CLOSES, tokens=12)
    write(tmp_path, "aspo-step8-seed1", "hotpotqa", [0, 1, 0, 0], CLOSES)
    write(tmp_path, "aspo-step8-seed2", "hotpotqa", [0, 0, 1, 0], CLOSES)
    write(tmp_path, "sft", "hotpotqa", [1, 1, 1, 0], CLOSES)
    inputs = Inputs(scores=[tmp_path / "scores"], traces=[tmp_path / "traces"], metrics=[tmp_path / "runs/rl"])
    return inputs, params((1, 2))


def params(seeds):
    baseline, arm = ({"arm": arm, "models": [f"{arm}-step8-seed{seed}" for seed in seeds]} for arm in ("grpo", "aspo"))
    effects = {name: 0.1 for name in ("accuracy", "forgotten", "bigram", "calls", "first_tool_share", "truncated")}
    effects |= {"first_tool": 5.0, "tokens": 1.0, "kl": 0.1, "entropy": 0.1}
    return {
        "baseline": baseline,
        "arms": [arm],
        "seeds": list(seeds),
        "start": "sft",
        "benchmarks": [MATH, QA],
        "power": 0.8,
        "effects": effects,
        "planned_seeds": 5,
    }


def rows_of(table) -> dict:
    place = table.columns.index("task")
    outcome = table.columns.index("outcome")
    return {(row[outcome], row[place]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_effects_are_differences_of_seeds_and_items(study):
    rows = rows_of(build("effects", *study)[""])
    accuracy = rows["accuracy", "math"]
    assert (accuracy["baseline"], accuracy["value"], accuracy["difference"]) == ("50.0000", "87.5000", "37.5000")
    assert (accuracy["arm"], accuracy["seeds"], accuracy["items"], accuracy["unit"]) == ("aspo", 2, 4, "points")
    assert float(accuracy["lo"]) < 37.5 < float(accuracy["hi"])
    assert rows["accuracy", "qa"]["difference"] == "-25.0000"
    assert rows["python→think", "math"]["difference"] == "-1.0000"
    # One of eight trajectories of math calls no tool: seven of eight end python, answer.
    assert rows["python→answer", "math"]["value"] == "0.8750"
    assert rows["calls", "math"]["difference"] == "-0.1250"
    assert rows["truncated", "math"]["difference"] == "12.5000" and rows["tokens", "math"]["difference"] == "2.0000"


def test_what_was_forgotten_counts_items_that_the_start_answers_right(study):
    """The start answers items 0, 1, 2 of the questions. GRPO loses item 2; ASPO loses 0 and 2, then 0 and 1."""
    row = rows_of(build("effects", *study)[""])["forgotten", "qa"]
    assert (row["baseline"], row["value"], row["difference"], row["items"]) == ("33.3333", "66.6667", "33.3333", 3)


def test_items_without_a_first_tool_in_some_run_are_left_out_and_counted(study):
    rows = rows_of(build("effects", *study)[""])
    offset = rows["first_tool", "math"]
    assert (offset["items"], offset["left_out"], offset["difference"]) == (3, 1, "0.0000")
    assert rows["calls", "math"]["left_out"] == 0
    assert "search→answer" not in {outcome for outcome, _ in rows}  # no run shows it


def test_outcomes_without_any_common_item_have_a_row_that_says_so(study, tmp_path):
    write(tmp_path, "aspo-step8-seed1", "gsm8k", [1, 1, 1, 1], ["guesses"] * 4)
    row = rows_of(build("effects", *study)[""])["first_tool", "math"]
    assert (row["difference"], row["items"], row["left_out"]) == ("", 0, 4)
    assert row["method"] == "fewer than two items can be compared"
    table = build("power", *study)[""]
    assert ("first_tool", "math") not in rows_of(table)
    assert table.notes[-1].endswith("so without a row: first_tool (math), first_tool_share (math).")


def test_a_metric_of_training_is_compared_over_seeds_alone(study):
    """The last two of eight steps have mean 7.5: GRPO 0.75, ASPO 1.5 and 2.25. The differences are 0.75 and 1.5."""
    row = rows_of(build("effects", *study)[""])["kl", "all"]
    expected = stats.t.interval(0.95, 1, loc=1.125, scale=0.375)
    assert row["difference"] == "1.1250" and row["items"] == ""
    assert [float(row["lo"]), float(row["hi"])] == pytest.approx(expected, abs=1e-3)
    assert float(row["p"]) == pytest.approx(stats.ttest_1samp([0.75, 1.5], 0).pvalue, abs=1e-4)


def test_each_family_has_its_own_correction(study):
    found = measured(*study)
    corrected, sizes = corrections(found)
    assert sizes["accuracy"] == 3 and sizes["training"] == 2 and sizes["behaviour"] == len(found) - 5
    for number, each in enumerate(found):
        assert each.contrast.p() <= corrected[number] <= min(1, sizes[each.family] * each.contrast.p()) + 1e-12


def test_one_seed_has_no_p_value_and_says_why(study):
    inputs, _ = study
    table = build("effects", inputs, params((1,)))[""]
    rows = rows_of(table)
    assert rows["accuracy", "math"]["p"] == rows["accuracy", "math"]["mde"] == ""
    assert rows["accuracy", "math"]["method"] == "items (one seed), paired"
    assert rows["kl", "all"]["lo"] == "" and "One seed: nothing follows about training" in table.notes[-1]
    with pytest.raises(DataError, match="a pilot needs two seeds"):
        build("power", inputs, params((1,)))


def test_metrics_that_a_run_has_not_logged_are_named(study, tmp_path):
    made_up.write_lines(tmp_path / "runs/rl/aspo/seed2/metrics.jsonl", [{"step": 1, "actor/entropy_loss": 1.0}])
    table = build("effects", *study)[""]
    assert ("kl", "all") not in rows_of(table) and ("entropy", "all") in rows_of(table)
    assert table.notes[-1] == "Not logged by every run, so without a row: kl."


def test_over_seeds_is_students_t():
    values = np.array([1.0, 2.0, 4.0])
    found = over_seeds(values)
    assert found.interval() == pytest.approx(stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values)))
    assert found.p() == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_seeds_that_are_all_equal_do_not_say_how_much_seeds_differ(study, tmp_path):
    found = over_seeds(np.full(3, 0.25))
    assert found.p() == 1.0 and found.interval() == (-np.inf, np.inf)
    for seed in (1, 2):
        metrics(tmp_path, "aspo", seed, 0.3)
    row = rows_of(build("effects", *study)[""])["kl", "all"]
    assert row["difference"] == "1.5000" and row["lo"] == row["hi"] == row["mde"] == "" and row["p"] == "1"


# --- power ----------------------------------------------------------------------------------------------------------


def test_variances_of_simulated_differences_are_found_again():
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(1, 4000)) * 0.3 + rng.normal(size=(40, 4000)) * 0.5 for _ in range(2)]
    seeds = rng.normal(size=(40, 1)) * 0.2
    found = variances([table + seeds for table in tables])
    assert found.items == pytest.approx(0.09, rel=0.1) and found.within == pytest.approx(0.25, rel=0.02)
    assert found.seeds == pytest.approx(seeds.var(ddof=1), rel=0.1) and found.sizes == (4000, 4000)


def test_planned_seeds_find_the_effect_with_the_stated_power():
    """Simulated studies with the number of seeds that is planned: the t-test over seeds finds the effect in 4 of 5."""
    known, effect = Variances(items=0.0, seeds=0.04, within=0.0, sizes=(), typical=0.0), 0.2
    needed = smallest(lambda seeds: known.contrast(seeds, 0).detectable(0.95, 0.8) <= effect, 2, 1000)
    draws = np.random.default_rng(1).normal(effect, 0.2, size=(20_000, needed))
    found = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    fewer = (stats.ttest_1samp(draws[:, 1:], 0, axis=1).pvalue < 0.05).mean()
    assert fewer < 0.8 <= found + 0.01 and needed == 10


def differences(rng, sizes, seeds, effect, changed, unstable):
    """Tables of 0 and ±1: `changed` of the items differ, in each seed but with probability 1 - `unstable`."""
    gained = max(changed / 2 + effect / (2 * (1 - unstable)), effect / (1 - unstable))
    lost = max(changed - gained, 0.0)
    draws = [rng.random((1, size)) for size in sizes]
    items = [np.where(draw < gained, 1.0, np.where(draw < gained + lost, -1.0, 0.0)) for draw in draws]
    return [table * (rng.random((seeds, table.shape[1])) >= unstable) for table in items]


@pytest.mark.parametrize(("changed", "unstable"), [(0.02, 0.2), (0.1, 0.5), (0.3, 0.3)])
@pytest.mark.parametrize("sizes", [(80, 80), (25, 100)])
def test_planned_items_and_seeds_find_the_effect_in_the_paired_test(changed, unstable, sizes):
    """Also where nearly nothing differs in the pilot, and benchmarks of different sizes."""
    rng, effect, level = np.random.default_rng(2), 0.1, 1 - 0.05 / 6
    pilot = variances(differences(rng, (4000, 4000), 2, 0.0, changed, unstable))
    known = replace(pilot, sizes=sizes)

    def share_found(seeds, items):
        planned = [round(items * size / sum(sizes)) for size in sizes]
        studies = (differences(rng, planned, seeds, effect, changed, unstable) for _ in range(600))
        return np.mean([contrast(study, paired=True).p() < 1 - level for study in studies])

    def detects(seeds, items):
        return known.contrast(seeds, items, effect).detectable(level, 0.8) <= effect

    items = smallest(lambda number: detects(5, number), 4, 10_000)
    assert 0.77 < share_found(5, items) < 0.98
    seeds = smallest(lambda number: detects(number, sum(sizes)), 2, 1000)
    assert seeds is None or share_found(seeds, sum(sizes)) > 0.74  # two seeds: about 0.76


def test_more_items_help_only_against_the_variance_of_items():
    items, seeds = (Variances(0.25, 0.0, 0.1, (10,), 0.0), Variances(0.0, 0.04, 0.0, (10,), 0.0))
    enough = [
        smallest(lambda n: known.contrast(5, n).detectable(0.95, 0.8) <= 0.05, 2, 10_000) for known in (items, seeds)
    ]
    assert enough[1] is None
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 0.25 / 0.05**2  # without `within`
    assert expected < enough[0] < 1.5 * expected


def test_smallest_equals_a_plain_search():
    for limit in range(2, 60):
        assert smallest(lambda n: n >= limit, 2, 50) == (limit if limit <= 50 else None)


def test_power_has_a_row_per_outcome_and_task(study):
    table = build("power", *study)[""]
    rows = rows_of(table)
    kl = rows["kl", "all"]
    assert kl["sd_seeds"] == f"{np.std([0.75, 1.5], ddof=1):.4f}" and kl["sd_items"] == kl["items_needed"] == ""
    accuracy = rows["accuracy", "math"]
    assert (accuracy["smallest_effect"], accuracy["pilot_items"], accuracy["arms"]) == ("10.0000", 4, 1)
    assert accuracy["seeds_needed"] == "more" or accuracy["seeds_needed"] > 2
    think = rows["python→think", "math"]  # the difference is 1 everywhere, but one gained and one lost item are added
    assert think["sd_items"] == think["sd_seeds"] == think["sd_within"] == "0.0000" and float(think["mde"]) > 1


# --- the phase diagram ----------------------------------------------------------------------------------------------


def effects_file(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["arm,outcome,task,difference,lo,hi,p", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PHASE = {
    "worlds": [{"spoil": 0.9, "repair": 0.05}, {"spoil": 0.0, "repair": 1.0}],
    "arms": {"aspo": 0.5, "lambda_1.0": 1.0},
    "baseline": "grpo",
}


def test_the_phase_diagram_shows_each_difference_and_marks_clear_ones(tmp_path):
    files = [
        effects_file(
            tmp_path / "a.csv",
            [("aspo", "accuracy", "math", 4.25, 1, 8, 0.01), ("lambda_1.0", "accuracy", "math", 6, -1, 9, 0.1)],
        ),
        effects_file(  # one seed has no p-value
            tmp_path / "b.csv",
            [("aspo", "accuracy", "math", -3, -5, -1, ""), ("aspo", "tokens", "math", "", "", "", "")],
        ),
    ]
    figure = draw("phase", Inputs(data=files), PHASE)
    accuracy = figure.axes[0]
    texts = {tuple(map(int, text.get_position())): text for text in accuracy.texts}
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["λ = 1", "λ = 0.5"]
    assert texts[0, 1].get_text() == "+4.3" and texts[0, 1].get_fontweight() == "bold"
    assert texts[0, 0].get_text() == "+6.0" and texts[0, 0].get_fontweight() == "normal"
    assert texts[1, 1].get_text() == "−3.0" and texts[1, 0].get_text() == "none"
    assert texts[1, 1].get_fontweight() == "normal"


def test_the_phase_diagram_needs_one_table_per_world(tmp_path):
    one = effects_file(tmp_path / "a.csv", [("aspo", "accuracy", "math", 1, 0, 2, 0.05)])
    with pytest.raises(DataError, match="there are 2 worlds and 1 files"):
        draw("phase", Inputs(data=[one]), PHASE)
    other = tmp_path / "b.csv"
    other.write_text("model,score\nsft,1\n")
    with pytest.raises(DataError, match="not a table of effects"):
        draw("phase", Inputs(data=[one, other]), PHASE)
