"""Statistics: against scipy where scipy has it, and by simulation where the claim is about error rates."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from tir.errors import DataError
from tir.resampling import variance_split, weighted_median
from tir.statistics import (
    clustered_difference,
    clustered_proportion,
    minimum_detectable,
    study,
    wilson,
)

SIZES = {
    "gsm8k": 1319,
    "math500": 500,
    "aime24": 30,
    "aime25": 30,
    "hotpotqa": 200,
    "2wiki": 200,
    "bamboogle": 125,
    "musique": 200,
}


def _cells(values: np.ndarray, other: np.ndarray | None = None, **options):
    """A study of one benchmark with one or two models of one seed and sample."""
    rows = {"a": {"x": values.reshape(1, -1, 1)}}
    if other is not None:
        rows["b"] = {"x": other.reshape(1, -1, 1)}
    return study(rows, pairs=[("a", "b")] if other is not None else [], **options)


# --- against scipy and the paper ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n", "printed"), [(29, 36, (0.650, 0.902)), (4, 24, (0.067, 0.359))])
def test_wilson_equals_scipy_and_the_published_intervals(hits, n, printed):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high))
    assert wilson(hits, n) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("items", "points"), [(30, 24.2), (240, 8.6), (500, 5.9), (2604, 2.6), (6088, 1.7)])
def test_minimum_detectable_effect_of_paired_items(items, points):
    error = np.sqrt(2 * 0.34 * 0.66 * (1 - 0.5) / items)  # both models right on 34 %, correlation 0.5
    assert 100 * minimum_detectable(error) == pytest.approx(points, abs=0.07)


def test_interval_of_a_score_agrees_with_scipy():
    values = np.random.default_rng(3).beta(0.5, 0.8, 200)
    ours = _cells(values, resamples=20_000).estimates["a", "x"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert ours.method == "bootstrap (items)" and ours.score == pytest.approx(values.mean())
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_paired_difference_agrees_with_scipy():
    draw = np.random.default_rng(4)
    first = draw.random(150)
    second = np.clip(first + draw.normal(0.06, 0.25, 150), 0, 1)
    ours = _cells(second, first, resamples=20_000)
    found = ours.comparisons[0]
    assert (found.a, found.b) == ("a", "b")
    theirs = stats.bootstrap(
        (second, first),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    test = stats.permutation_test(
        (second - first,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    )
    assert (found.lo, found.hi) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert found.p == pytest.approx(test.pvalue, abs=0.006)
    error = (second - first).std(ddof=1) / np.sqrt(150)
    wider = np.hypot(error, np.sqrt(2) * np.abs(second - first).max() / 150)  # by one item gained and one lost
    assert found.minimum_detectable == pytest.approx(minimum_detectable(wider), rel=0.03)
    assert found.items_needed == pytest.approx(150 * (minimum_detectable(error) / found.difference) ** 2, abs=1.01)


def test_macro_weighs_benchmarks_not_items():
    draw = np.random.default_rng(5)
    rows = {"a": {"big": draw.random((1, 400, 1)), "small": draw.random((1, 25, 1))}}
    found = study(rows, macros={"Avg": ["big", "small"]}, resamples=4000).estimates["a", "Avg"]
    means = [rows["a"][name].mean() for name in ("big", "small")]
    error = np.sqrt(sum(rows["a"][name].var(ddof=1) / rows["a"][name].size for name in ("big", "small"))) / 2
    assert found.score == pytest.approx(np.mean(means)) and found.n == 425
    assert found.hi - found.lo == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_benchmarks_as_a_sample_widen_the_interval():
    draw = np.random.default_rng(6)
    rows = {"a": {str(k): (draw.random((1, 100, 1)) < (k + 1) / 10).astype(float) for k in range(8)}}
    widths = []
    for random_benchmarks in (False, True):
        found = study(rows, macros={"Avg": list(rows["a"])}, resamples=2000, random_benchmarks=random_benchmarks)
        widths.append(found.estimates["a", "Avg"].hi - found.estimates["a", "Avg"].lo)
    assert widths[1] > 3 * widths[0]
    assert found.estimates["a", "Avg"].method == "bootstrap (benchmarks, items)"


def test_holm_corrects_each_family_by_itself():
    draw = np.random.default_rng(7)
    rows = {
        name: {bench: draw.random((1, 60, 1)) + shift for bench in "xy"}
        for name, shift in (("a", 0), ("b", 0.02), ("c", 0.3))
    }
    pairs = list(combinations(rows, 2))
    found = study(rows, macros={"Avg": ["x", "y"]}, pairs=pairs, resamples=2000).comparisons
    for column, members in (
        ("macro", [each for each in found if each.column == "Avg"]),
        ("cell", [each for each in found if each.column != "Avg"]),
    ):
        ranked = sorted(members, key=lambda each: each.p)
        running = 0.0
        for position, each in enumerate(ranked):
            running = max(running, min(1, each.p * (len(ranked) - position)))
            assert each.p_holm == pytest.approx(running), column
    words = {(each.a, each.b): each.verdict for each in found if each.column == "Avg"}
    assert words["a", "c"] == "c is better than a" and words["a", "b"] == "not distinguishable at this n"


# --- error rates, by simulation ----------------------------------------------------------------------------------


def _simulate(models: int, items: list[int], seeds: int, seed_sd: float, draw) -> tuple[dict, float]:
    """Independent models of the same true macro score; returns their scores and that score."""
    rows = {}
    for model in range(models):
        shift = draw.normal(0, seed_sd, (seeds, 1, 1))
        rows[model] = {}
        for number, size in enumerate(items):
            chance = 0.1 + 0.8 * draw.beta(0.6, 0.9, (1, size, 1))
            rows[model][f"b{number}"] = (draw.random((seeds, size, 1)) < np.clip(chance + shift, 0, 1)).astype(float)
    return rows, 0.1 + 0.8 * 0.4


@pytest.mark.parametrize(
    ("items", "seeds", "seed_sd", "bounds"),
    [
        ([200], 1, 0.0, (0.94, 0.96)),
        ([30] * 4, 1, 0.0, (0.94, 0.96)),
        # Three seeds cannot tell their own spread well; where there is little, the interval errs to the safe side.
        ([60] * 3, 3, 0.03, (0.935, 0.975)),
    ],
)
def test_intervals_cover_the_truth(items, seeds, seed_sd, bounds):
    covered = []
    for batch in range(2):
        rows, truth = _simulate(750, items, seeds, seed_sd, np.random.default_rng(100 + batch))
        found = study(rows, macros={"Avg": list(rows[0])}, resamples=1000, seed=batch).estimates
        covered += [found[model, "Avg"].lo <= truth <= found[model, "Avg"].hi for model in rows]
    assert bounds[0] <= np.mean(covered) <= bounds[1]


@pytest.mark.parametrize("items", [30, 50])
@pytest.mark.parametrize(
    ("gained", "lost"), [(0.02, 0.0), (0.05, 0.0), (0.04, 0.01), (0.1, 0.0), (0.08, 0.03), (0.2, 0.15)]
)
def test_intervals_of_small_differences_cover_the_truth(items, gained, lost):
    """Few items differ, often one or none: a bootstrap of those alone covers as little as 45 %."""
    draw = np.random.default_rng(14)
    kinds = draw.choice([1, -1, 0], (400, items), p=[gained, lost, 1 - gained - lost])
    rows = {"base": {"x": np.zeros((1, items, 1))}}
    rows |= {number: {"x": row.reshape(1, -1, 1).astype(float)} for number, row in enumerate(kinds)}
    pairs = [(number, "base") for number in range(len(kinds))]
    found = study(rows, pairs=pairs, resamples=1000).comparisons
    truth = gained - lost
    assert np.mean([each.lo - 1e-9 <= truth <= each.hi + 1e-9 for each in found]) >= 0.93


def _false_positives(seeds: int, seed_sd: float) -> float:
    rows, _ = _simulate(1400, [40] * 3, seeds, seed_sd, np.random.default_rng(8))
    pairs = [(model, model + 1) for model in range(0, 1400, 2)]
    found = study(rows, macros={"Avg": list(rows[0])}, pairs=pairs, resamples=600).comparisons
    return float(np.mean([each.p < 0.05 for each in found if each.column == "Avg"]))


def test_two_equal_models_are_called_different_in_at_most_one_of_eighteen_trials():
    assert _false_positives(1, 0.0) <= 0.055


def test_two_equal_arms_with_noisy_seeds_are_not_called_different_either():
    assert _false_positives(3, 0.05) <= 0.055


def test_one_seed_per_arm_cannot_see_training_noise():
    """Why an arm needs seeds: with one each, training noise alone makes `significant` differences."""
    assert _false_positives(1, 0.05) > 0.10


def test_a_real_difference_is_found():
    draw = np.random.default_rng(9)
    ease = draw.random((1, 500, 1))
    rows = {
        name: {"x": (draw.random((3, 500, 1)) < ease * 0.6 + shift).astype(float)}
        for name, shift in (("a", 0.25), ("b", 0.05))
    }
    found = study(rows, pairs=[("a", "b")], resamples=2000).comparisons[0]
    assert found.p_holm < 0.05 and found.lo > 0 and found.verdict == "a is better than b"


# --- edges -------------------------------------------------------------------------------------------------------


def test_binary_scores_of_one_seed_get_wilson_and_constants_are_not_certain():
    found = _cells(np.repeat([1.0, 0.0], [22, 8])).estimates["a", "x"]
    assert found.method == "wilson" and (found.lo, found.hi) == wilson(22, 30)
    found = study({"a": {"x": np.zeros((3, 30, 1))}}).estimates["a", "x"]
    assert found.method == "wilson" and found.lo == 0 and found.hi > 0.1


def test_models_equal_on_every_item_are_not_certainly_equal():
    values = (np.arange(40) < 27).astype(float)
    found = _cells(values, values.copy()).comparisons[0]
    assert found.difference == 0 and found.p == 1 and found.items_needed is None
    exact = 1 - 0.025 ** (1 / 40)  # Clopper-Pearson's bound on the share of items that differ: 8.8 %
    assert found.hi == pytest.approx(exact, abs=0.015) and found.lo == pytest.approx(-exact, abs=0.015)
    power = 1 - stats.binom.cdf(5, 40, found.minimum_detectable)  # six of six one way is the sign test's first p < 0.05
    assert 0.6 < power < 0.95


def test_one_differing_item_does_not_exclude_the_other_direction():
    found = _cells(np.eye(40)[0], np.zeros(40)).comparisons[0]
    assert found.difference == 0.025 and found.lo < -0.03 and found.hi > 0.08
    assert found.items_needed == pytest.approx(40 * 7.85, rel=0.02)


def test_unseen_differences_weigh_once_in_an_average():
    rows = {name: {bench: np.ones((1, 40, 1)) for bench in "wxyz"} for name in "ab"}
    found = {each.column: each for each in study(rows, macros={"Avg": "wxyz"}, pairs=[("a", "b")]).comparisons}
    assert found["Avg"].hi == pytest.approx(found["w"].hi / 4, rel=0.05)
    assert 0.04 < found["Avg"].minimum_detectable < 0.06  # of 160 items; one benchmark alone: 0.16
    assert found["w"].minimum_detectable == pytest.approx(0.164, abs=0.001)


def test_an_average_of_constants_is_not_certain_either():
    rows = {"a": {"x": np.zeros((1, 30, 1)), "y": np.zeros((1, 30, 1))}}
    found = study(rows, macros={"Avg": ["x", "y"]}).estimates["a", "Avg"]
    assert (found.lo, found.hi) == pytest.approx(wilson(0, 60))


def test_equal_models_and_samples():
    draw = np.random.default_rng(10)
    values = draw.random((2, 40, 4))
    found = study({"a": {"x": values}, "b": {"x": values}}, pairs=[("a", "b")], resamples=500)
    assert found.comparisons[0].p == 1 and found.comparisons[0].items_needed is None
    assert (found.estimates["a", "x"].seeds, found.estimates["a", "x"].samples) == (2, 4)
    assert found.estimates["a", "x"].seed_sd == pytest.approx(values.mean(axis=(1, 2)).std(ddof=1))


def test_same_seed_same_result():
    values = np.random.default_rng(11).random((3, 50, 2))
    assert study({"a": {"x": values}}, seed=5) == study({"a": {"x": values}}, seed=5)


def test_table_5_at_full_size_is_quick():
    draw = np.random.default_rng(12)
    rows = {
        model: {name: (draw.random((3, size, 1)) < 0.5).astype(float) for name, size in SIZES.items()}
        for model in "abcd"
    }
    begin = time.process_time()
    found = study(rows, macros={"Avg": list(SIZES)}, pairs=list(combinations(rows, 2)), resamples=10_000)
    assert found.estimates["a", "Avg"].n == 2604 and time.process_time() - begin < 10


def test_variance_split_recovers_its_components():
    draw = np.random.default_rng(13)
    values = draw.normal(0, 1, (1, 400, 1)) + draw.normal(0, 0.5, (200, 1, 1)) + draw.normal(0, 0.7, (200, 400, 1))
    found = variance_split(values)
    assert (found["items"], found["seeds"], found["within"]) == pytest.approx((1, 0.25, 0.49), rel=0.2)
    single = variance_split(draw.normal(0, 1, (1, 3000, 1)) + draw.normal(0, 2, (1, 3000, 4)))
    assert (single["items"], single["seeds"], single["within"]) == pytest.approx((1, 0, 1), rel=0.2, abs=1e-9)


def test_clusters_widen_a_proportion():
    hits = np.repeat([1.0, 0.0], [12, 8])
    alone = clustered_proportion(hits, np.ones(20))
    tenfold = clustered_proportion(10 * hits, np.full(20, 10.0))
    assert alone == pytest.approx(tenfold) and tenfold[1] - tenfold[0] > 2 * np.diff(wilson(120, 200))[0]
    expected = stats.bootstrap((hits,), np.mean, method="percentile", rng=0).confidence_interval
    assert alone == pytest.approx((expected.low, expected.high), abs=0.051)
    halves = np.arange(20) % 2.0, np.ones(20)
    lo, hi = clustered_difference((hits, np.ones(20)), halves)
    mirrored = clustered_difference(halves, (hits, np.ones(20)))
    assert lo < 0.1 < hi and (-hi, -lo) == pytest.approx(mirrored)


def test_clusters_that_all_agree_are_not_certain():
    none, twice, halves = np.zeros(20), np.full(20, 2.0), (np.arange(20) % 2.0, np.ones(20))
    assert clustered_proportion(none, twice) == wilson(0, 20)  # 20 trajectories, not 40 occurrences
    assert clustered_proportion(twice, twice) == wilson(20, 20)
    lo, hi = clustered_difference((twice, twice), (none, twice))
    edge = wilson(0, 20)[1]
    assert hi == 1 and lo == pytest.approx(1 - np.sqrt(2) * edge)
    lo, hi = clustered_difference((none, twice), halves)
    low, high = clustered_proportion(*halves)
    assert lo == pytest.approx(-high, abs=0.05) and -0.5 < hi < -low + edge


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"x": np.ones((1, 3, 1))}, "b": {"x": np.ones((1, 4, 1))}}, "two or more items"),
        ({"a": {"x": np.ones((1, 3, 1))}, "b": {"y": np.ones((1, 3, 1))}}, "same benchmarks"),
        ({"a": {"x": np.ones((1, 3, 1)), "y": np.ones((2, 3, 1))}}, "same seeds"),
        ({"a": {"x": np.ones((1, 1, 1))}}, "two or more items"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        study(rows)


def test_unknown_labels_are_refused():
    with pytest.raises(DataError, match="cannot compare"):
        study({"a": {"x": np.ones((1, 3, 1))}}, pairs=[("a", "c")])


def test_a_weighted_median_is_that_of_the_repeated_values():
    draw = np.random.default_rng(0)
    values, weights = draw.integers(0, 50, 9).astype(float), draw.integers(0, 3, (200, 9))
    weights[0] = 0
    found = weighted_median(values, weights)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [np.median(np.repeat(values, each)) for each in weights[1:]]
