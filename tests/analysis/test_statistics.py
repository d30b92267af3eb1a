"""Statistics: compared with scipy where it has the method; error rates are checked by simulation."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from support.shared_data import BENCHMARK_ROWS, BENCHMARK_TASKS

from bench.coverage import ARMS, PAIRS, TRUTH, as_scores, measure, simulate
from tir.analysis.clusters import clustered_difference, clustered_proportion, weighted_median
from tir.analysis.contrast import NORMAL, contrast, distribution, of_seeds, satterthwaite, variance_split
from tir.analysis.statistics import ONE_SEED, holm, study, wilson
from tir.common.errors import DataError

SIZES = {name: rows for name, rows in BENCHMARK_ROWS.items() if BENCHMARK_TASKS[name] != "web"}


def _study_of_one_benchmark(values: np.ndarray, other: np.ndarray | None = None, **options):
    """A study of benchmark `x` with one or two models `a` and `b`, one seed and one sample."""
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


def test_holm_equals_statsmodels():
    p = np.random.default_rng(0).random(40) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_interval_of_a_score_agrees_with_scipys_bootstrap_of_the_items():
    values = np.random.default_rng(3).beta(0.5, 0.8, 200)
    ours = _study_of_one_benchmark(values).estimates["a", "x"]
    scipys = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert ours.method == "Wilson, items" and ours.score == pytest.approx(values.mean())
    assert (ours.lo, ours.hi) == pytest.approx((scipys.low, scipys.high), abs=0.003)


def test_paired_difference_agrees_with_scipys_bootstrap_and_permutations():
    draw = np.random.default_rng(4)
    first = draw.random(150)
    second = np.clip(first + draw.normal(0.06, 0.25, 150), 0, 1)
    ours = _study_of_one_benchmark(second, first).comparisons[0]
    assert (ours.a, ours.b) == ("a", "b")
    scipys = stats.bootstrap(
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
    assert (ours.lo, ours.hi) == pytest.approx((scipys.low, scipys.high), abs=0.004)
    assert ours.p == pytest.approx(test.pvalue, abs=0.006)
    in_errors = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    error = (second - first).std(ddof=1) / np.sqrt(150)
    assert ours.minimum_detectable == pytest.approx(in_errors * error, rel=0.03)
    assert ours.items_needed == pytest.approx(150 * (in_errors * error / ours.difference) ** 2, rel=0.03)


@pytest.mark.parametrize("items", [40, 320])
def test_a_difference_of_few_items_is_judged_like_mcnemars_exact_test(items):
    """The level of the test, counted over all splits of the items that differ, and the p-value of 4 items of 320."""

    def p(gained: int, lost: int) -> float:
        kinds = np.repeat([1.0, -1.0, 0.0], [gained, lost, items - gained - lost])
        return contrast([kinds[None]], paired=True).p()

    levels = []
    for differing in range(20):
        wrong = [lost for lost in range(differing + 1) if p(differing - lost, lost) < 0.05]
        levels.append(stats.binom.pmf(wrong, differing, 0.5).sum())
    assert max(levels) <= 0.066 and np.mean(levels) <= 0.05 and levels[6] == pytest.approx(2 / 2**6)
    for gained, lost in ((4, 0), (3, 1), (2, 2), (6, 0), (9, 1), (12, 4)):
        exact = stats.binomtest(lost, gained + lost).pvalue
        without_ties = exact - stats.binom.pmf(lost, gained + lost, 0.5)  # the mid-p value
        assert without_ties <= p(gained, lost) <= exact + 0.003


def test_a_table_names_the_distribution_of_a_test():
    assert [distribution(2.0481), distribution(NORMAL)] == ["t(2.048)", "normal"]


def test_a_macro_average_weighs_benchmarks_equally():
    draw = np.random.default_rng(5)
    rows = {"a": {"big": draw.random((1, 400, 1)), "small": draw.random((1, 25, 1))}}
    found = study(rows, macros={"Avg": ["big", "small"]}).estimates["a", "Avg"]
    means = [rows["a"][name].mean() for name in ("big", "small")]
    error = np.sqrt(sum(rows["a"][name].var(ddof=1) / rows["a"][name].size for name in ("big", "small"))) / 2
    assert found.score == pytest.approx(np.mean(means)) and found.n == 425
    assert found.hi - found.lo == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_holm_correction_is_within_each_family():
    draw = np.random.default_rng(7)
    rows = {
        name: {bench: draw.random((1, 60, 1)) + shift for bench in "xy"}
        for name, shift in (("a", 0), ("b", 0.02), ("c", 0.3))
    }
    pairs = list(combinations(rows, 2))
    found = study(rows, macros={"Avg": ["x", "y"]}, pairs=pairs).comparisons
    for column, members in (
        ("macro", [each for each in found if each.column == "Avg"]),
        ("cell", [each for each in found if each.column != "Avg"]),
    ):
        ranked = sorted(members, key=lambda each: each.p)
        running = 0.0
        for position, each in enumerate(ranked):
            running = max(running, min(1, each.p * (len(ranked) - position)))
            assert each.p_holm == pytest.approx(running), column
    verdicts = {(each.a, each.b): each.verdict for each in found if each.column == "Avg"}
    assert verdicts["a", "c"] == "c is better than a" and verdicts["a", "b"] == "not distinguishable at this n"


def test_a_contrast_is_the_same_beside_any_other_rows():
    """One contrast has one interval and one p-value in every table; only the correction depends on the family."""
    scores = as_scores(simulate(np.random.default_rng(1), 3, 0.02, items=30))
    macros = {"Avg": list(scores["a"])}
    alone = study({label: scores[label] for label in "ba"}, arms=ARMS, macros=macros, pairs=[("a", "b")])
    beside = study(scores, arms=ARMS, macros=macros | {"half": list(scores["a"])[:4]}, pairs=PAIRS)
    others = {(each.a, each.b, each.column): each for each in beside.comparisons}
    for each in alone.comparisons:
        other = others[each.a, each.b, each.column]
        assert (each.lo, each.hi, each.p) == (other.lo, other.hi, other.p) and other.family > each.family
        assert (each.p < 0.05) == (not each.lo <= 0 <= each.hi)


# --- error rates, by simulation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_an_interval_covers_94_to_96_percent_whatever_part_of_the_variance_is_training(seeds):
    """Exact coverage for normal errors: items give the known variance 1 - part, seeds an estimate of `part`."""
    freedom = seeds - 1
    ratios = stats.chi2.ppf((np.arange(500) + 0.5) / 500, freedom) / freedom
    for part in (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0):
        covered = []
        for training in part * ratios:
            degrees = satterthwaite([(1 - part, NORMAL), of_seeds(training, seeds)])
            covered.append(1 - 2 * special.ndtr(-special.stdtrit(degrees, 0.975) * np.sqrt(1 - part + training)))
        assert 0.94 <= np.mean(covered) <= 0.96, part


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02, 0.04])
def test_intervals_cover_the_truth_with_training_noise(seeds, noise):
    """1,000 differences of two arms and 1,000 scores; the bounds are 94 and 96 %, and 2.5 standard errors."""
    draw = np.random.default_rng(int(1000 * noise) + seeds)
    differences, scores = [], []
    for _ in range(500):
        tables = simulate(draw, seeds, noise).swapaxes(1, 2)
        for one, other in ((0, 1), (2, 3)):
            lo, hi = contrast(tables[one] - tables[other], paired=True).interval()
            differences.append(lo <= 0 <= hi)
            lo, hi = contrast(tables[one]).interval()
            scores.append(lo <= TRUTH <= hi)
    for covered in (differences, scores):
        assert 0.94 - 0.018 <= np.mean(covered) <= 0.96 + 0.016


def test_equal_arms_are_seldom_called_different():
    """A family of six pairs on an average, and one of 48 cells, at the noise at which today's tables erred most."""
    rates = measure(5, 0.02, 150, items=30)
    assert rates["false, Avg"] <= 0.11 and rates["false, cell"] <= 0.10  # 5 % and 2.5 standard errors
    assert rates["difference, Avg"] >= 0.93 and rates["difference, cell"] >= 0.94


def test_the_smallest_detectable_difference_is_found_in_80_percent():
    """Of four pairs, one differs by what the study calls detectable after Holm's correction over the family."""
    names, draw = ("a", "b", "c", "d", "e", "f", "g", "h"), np.random.default_rng(5)
    pairs = list(zip(names[::2], names[1::2], strict=True))

    def comparisons(gain: float) -> dict:
        gains = np.zeros((8, 1, 1, 1))
        gains[0] = gain
        answers = simulate(draw, 5, 0.01, arms=8, benchmarks=4, items=60, shared=0.5, gains=gains)
        scores = as_scores(answers, names)
        found = study(scores, arms=names, macros={"Avg": list(scores["a"])}, pairs=pairs).comparisons
        return {each.column: each for each in found if each.a == "a"}

    for place, family in (("Avg", 4), ("b0", 16)):
        gain = 0.1
        for _ in range(3):  # the gain changes the variance, and with it what is detectable
            gain = np.mean([comparisons(gain)[place].minimum_detectable for _ in range(12)])
        found = [comparisons(gain)[place] for _ in range(120)]
        assert found[0].family == family and 0.05 < gain < 0.25
        assert np.mean([each.p_holm < 0.05 for each in found]) == pytest.approx(0.8, abs=0.1)  # 2.7 errors


def test_pairing_by_seed_removes_what_arms_have_in_common():
    draw, ratios = np.random.default_rng(2), []
    for _ in range(40):
        answers = simulate(draw, 5, 0.0)
        answers = np.where(draw.random((1, 5, 1, 1)) < 0.2, answers[:1], answers)  # the seed's luck, equal for all arms
        one, other = as_scores(answers)["a"], as_scores(answers)["b"]
        paired = contrast([one[name][..., 0] - other[name][..., 0] for name in one], paired=True).variance
        alone = sum(contrast([row[name][..., 0] for name in row]).variance for row in (one, other))
        ratios.append(paired / alone)
    assert np.mean(ratios) < 0.5


def test_one_seed_of_an_arm_has_no_p_value_and_says_so():
    scores = as_scores(simulate(np.random.default_rng(6), 1, 0.0))
    found = study(
        scores, arms=("a", "b"), macros={"Avg": list(scores["a"])}, pairs=[("a", "b"), ("a", "c"), ("c", "d")]
    )
    for each in found.comparisons:
        once = each.a == "a"  # c and d are checkpoints of which this run makes no statement about training
        assert (each.p is None) == (each.p_holm is None) == (each.minimum_detectable is None) == once
        assert (each.verdict == ONE_SEED) == ("one seed" in each.method) == once
    assert next(each for each in found.comparisons if each.column == "Avg").family == 1  # c - d
    assert "one seed" in found.estimates["a", "Avg"].method and "one seed" not in found.estimates["c", "Avg"].method


@pytest.mark.parametrize("items", [30, 50])
@pytest.mark.parametrize(
    ("gained", "lost"), [(0.02, 0.0), (0.05, 0.0), (0.04, 0.01), (0.1, 0.0), (0.08, 0.03), (0.2, 0.15)]
)
def test_intervals_of_small_differences_cover_the_truth(items, gained, lost):
    """Few items differ, often one or none; without pseudo-items an interval covers as little as 45 %."""
    draw = np.random.default_rng(14)
    kinds = draw.choice([1, -1, 0], (400, items), p=[gained, lost, 1 - gained - lost])
    intervals = [contrast([row[None].astype(float)], paired=True).interval() for row in kinds]
    truth = gained - lost
    assert np.mean([lo - 1e-9 <= truth <= hi + 1e-9 for lo, hi in intervals]) >= 0.93


@pytest.mark.parametrize("sizes", [(30, 500), (500, 500, 30, 30), (4, 160)])
def test_intervals_of_an_average_of_small_and_large_benchmarks_cover_the_truth(sizes):
    """Of 3 % lost, often none is in the small benchmark, which has as much weight as the large one."""
    draw = np.random.default_rng(15)
    samples = [[-(draw.random((1, size)) < 0.03).astype(float) for size in sizes] for _ in range(400)]
    intervals = [contrast(tables, paired=True).interval() for tables in samples]
    assert np.mean([lo <= -0.03 <= hi for lo, hi in intervals]) >= 0.93


def test_a_true_difference_is_significant():
    draw = np.random.default_rng(9)
    ease = draw.random((1, 500, 1))
    rows = {
        name: {"x": (draw.random((3, 500, 1)) < ease * 0.6 + shift).astype(float)}
        for name, shift in (("a", 0.25), ("b", 0.05))
    }
    found = study(rows, pairs=[("a", "b")]).comparisons[0]
    assert found.p_holm < 0.05 and found.lo > 0 and found.verdict == "a is better than b"


# --- edge cases --------------------------------------------------------------------------------------------------


def test_binary_scores_of_one_seed_and_equal_scores_get_wilsons_interval():
    found = _study_of_one_benchmark(np.repeat([1.0, 0.0], [22, 8])).estimates["a", "x"]
    assert found.method.startswith("Wilson") and (found.lo, found.hi) == wilson(22, 30)
    found = study({"a": {"x": np.zeros((3, 30, 1))}}).estimates["a", "x"]
    assert found.method.startswith("Wilson") and found.lo == 0 and found.hi > 0.1


def test_models_equal_on_every_item_have_an_interval_wider_than_zero():
    values = (np.arange(40) < 27).astype(float)
    found = _study_of_one_benchmark(values, values.copy()).comparisons[0]
    assert found.difference == 0 and found.p == 1 and found.items_needed is None
    exact = 1 - 0.025 ** (1 / 40)  # Clopper-Pearson's bound on the share of items that differ: 8.8 %
    assert found.hi == pytest.approx(exact, abs=0.02) and found.lo == -found.hi
    power = 1 - stats.binom.cdf(5, 40, found.minimum_detectable)  # a sign test needs 6 of 6 wins for p < 0.05
    assert 0.6 < power < 0.95


def test_one_differing_item_does_not_exclude_the_other_direction():
    found = _study_of_one_benchmark(np.eye(40)[0], np.zeros(40)).comparisons[0]
    assert found.difference == 0.025 and found.lo < -0.03 and found.hi > 0.08
    assert found.items_needed == pytest.approx(40 * 7.85, rel=0.02)


def test_an_average_gets_one_pair_of_pseudo_items():
    rows = {name: {bench: np.ones((1, 40, 1)) for bench in "wxyz"} for name in "ab"}
    found = {each.column: each for each in study(rows, macros={"Avg": "wxyz"}, pairs=[("a", "b")]).comparisons}
    assert found["Avg"].hi == pytest.approx(found["w"].hi / 4, rel=0.05)
    assert 0.04 < found["Avg"].minimum_detectable < 0.06  # for 160 items; for the 40 of one benchmark: 0.16
    shift2 = (stats.norm.ppf(1 - 0.025 / 4) + stats.norm.ppf(0.8)) ** 2  # four comparisons in the family
    assert found["w"].minimum_detectable == pytest.approx(shift2 / (40 + shift2), rel=0.001)


def test_an_average_of_equal_scores_gets_wilsons_interval():
    rows = {"a": {"x": np.zeros((1, 30, 1)), "y": np.zeros((1, 30, 1))}}
    found = study(rows, macros={"Avg": ["x", "y"]}).estimates["a", "Avg"]
    assert (found.lo, found.hi) == pytest.approx(wilson(0, 60))


def test_equal_models_with_several_samples_have_p_1():
    draw = np.random.default_rng(10)
    values = draw.random((2, 40, 4))
    found = study({"a": {"x": values}, "b": {"x": values}}, pairs=[("a", "b")])
    assert found.comparisons[0].p == 1 and found.comparisons[0].items_needed is None
    assert (found.estimates["a", "x"].seeds, found.estimates["a", "x"].samples) == (2, 4)
    assert found.estimates["a", "x"].seed_sd == pytest.approx(values.mean(axis=(1, 2)).std(ddof=1))


def test_table_5_with_the_full_test_sets_takes_less_than_2_seconds():
    draw = np.random.default_rng(12)
    rows = {
        model: {name: (draw.random((3, size, 1)) < 0.5).astype(float) for name, size in SIZES.items()}
        for model in "abcd"
    }
    begin = time.process_time()
    found = study(rows, macros={"Avg": list(SIZES)}, pairs=list(combinations(rows, 2)))
    assert found.estimates["a", "Avg"].n == 2604 and time.process_time() - begin < 2


def test_variance_split_recovers_its_components():
    draw = np.random.default_rng(13)
    values = draw.normal(0, 1, (1, 400, 1)) + draw.normal(0, 0.5, (200, 1, 1)) + draw.normal(0, 0.7, (200, 400, 1))
    found = variance_split(values)
    assert (found["items"], found["seeds"], found["within"]) == pytest.approx((1, 0.25, 0.49), rel=0.2)
    single = variance_split(draw.normal(0, 1, (1, 3000, 1)) + draw.normal(0, 2, (1, 3000, 4)))
    assert (single["items"], single["seeds"], single["within"]) == pytest.approx((1, 0, 1), rel=0.2, abs=1e-9)


def test_repeated_occurrences_in_a_cluster_do_not_narrow_the_interval():
    hits = np.repeat([1.0, 0.0], [12, 8])
    once = clustered_proportion(hits, np.ones(20))
    tenfold = clustered_proportion(10 * hits, np.full(20, 10.0))
    assert once == pytest.approx(tenfold) and tenfold[1] - tenfold[0] > 2 * np.diff(wilson(120, 200))[0]
    expected = stats.bootstrap((hits,), np.mean, method="percentile", rng=0).confidence_interval
    assert once == pytest.approx((expected.low, expected.high), abs=0.051)
    halves = np.arange(20) % 2.0, np.ones(20)
    lo, hi = clustered_difference((hits, np.ones(20)), halves)
    mirrored = clustered_difference(halves, (hits, np.ones(20)))
    assert lo < 0.1 < hi and (-hi, -lo) == pytest.approx(mirrored)


def test_clusters_that_all_agree_get_wilsons_interval():
    none, twice, halves = np.zeros(20), np.full(20, 2.0), (np.arange(20) % 2.0, np.ones(20))
    assert clustered_proportion(none, twice) == wilson(0, 20)  # 20 trajectories, not 40 occurrences
    assert clustered_proportion(twice, twice) == wilson(20, 20)
    assert clustered_proportion(twice, 2 * twice) == wilson(10, 20)  # half of the occurrences in each
    rare = np.zeros(120)
    rare[3] = 2.0
    assert clustered_proportion(rare, 2 * rare) == wilson(0.5, 1)  # one item of 120 has the bigram
    lo, hi = clustered_difference((twice, twice), (none, twice))
    edge = wilson(0, 20)[1]
    assert hi == 1 and lo == pytest.approx(1 - np.sqrt(2) * edge)
    lo, hi = clustered_difference((none, twice), halves)
    low, high = clustered_proportion(*halves)
    assert lo == pytest.approx(-high, abs=0.05) and -0.5 < hi < -low + edge


@pytest.mark.parametrize(("items", "share"), [(10, 0.8), (20, 0.9), (40, 0.95), (120, 0.5)])
@pytest.mark.parametrize("equal", [0.5, 1.0])
def test_intervals_of_clustered_shares_cover_the_truth(items, share, equal):
    """Two occurrences per item, with equal outcomes in a part of the items; the second share is correlated with it."""
    rng, covered = np.random.default_rng(3), []
    for _ in range(2000):
        alike = 2.0 * (rng.random(items) < share)
        hits = np.where(rng.random(items) < equal, alike, rng.binomial(2, share, items))
        others = np.where(rng.random(items) < 0.5, hits, rng.binomial(2, share, items))
        twice = np.full(items, 2.0)
        lo, hi = clustered_proportion(hits, twice)
        below, above = clustered_difference((hits, twice), (others, twice))
        covered.append((lo <= share <= hi, below <= 0 <= above))
    assert (np.mean(covered, axis=0) > 0.94).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"x": np.ones((1, 3, 1))}, "b": {"x": np.ones((1, 4, 1))}}, "two or more items"),
        ({"a": {"x": np.ones((1, 3, 1))}, "b": {"y": np.ones((1, 3, 1))}}, "same benchmarks"),
        ({"a": {"x": np.ones((1, 3, 1)), "y": np.ones((2, 3, 1))}}, "same seeds"),
        ({"a": {"x": np.ones((1, 1, 1))}}, "two or more items"),
    ],
)
def test_scores_of_different_shapes_are_rejected(rows, message):
    with pytest.raises(DataError, match=message):
        study(rows)


def test_arms_with_different_numbers_of_seeds_are_rejected():
    with pytest.raises(DataError, match="different numbers of seeds.*a has 3 and b has 2"):
        study({"a": {"x": np.ones((3, 4, 1))}, "b": {"x": np.ones((2, 4, 1))}}, pairs=[("a", "b")])


def test_unknown_and_equal_labels_are_rejected():
    for pair, reason in ((("a", "c"), "unknown label c"), (("a", "a"), "labels are equal")):
        with pytest.raises(DataError, match=f"cannot compare.*{reason}"):
            study({"a": {"x": np.ones((1, 3, 1))}}, pairs=[pair])


def test_a_weighted_median_equals_the_median_of_the_repeated_values():
    draw = np.random.default_rng(0)
    values, weights = draw.integers(0, 50, 9).astype(float), draw.integers(0, 3, (200, 9))
    weights[0] = 0
    found = weighted_median(values, weights)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [np.median(np.repeat(values, each)) for each in weights[1:]]
