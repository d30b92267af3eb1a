"""A reduced set of the pairs of `make bench-scoring`: gold answers of the nine benchmarks, rewritten."""

from __future__ import annotations

from support.shared_data import BENCHMARK_TASKS, needs_shared

from bench.scoring import confusion, ours, pairs
from tir.scoring.answers.verifier import default_verifier


@needs_shared
def test_no_rewritten_gold_answer_gets_a_false_point_and_hardly_any_loses_one():
    verdicts = [(pair, ours(pair, default_verifier())) for pair in pairs(share=0.04)]
    counts = confusion(verdicts)
    wrong = [(pair.prediction, pair.gold, found) for pair, found in verdicts if pair.equal != found]
    assert counts[False, True] == 0, wrong
    assert counts[True, False] <= 0.005 * counts[True, True], wrong
    assert min(counts[True, True], counts[False, False]) > 200


@needs_shared
def test_the_whole_set_has_three_thousand_pairs_of_each_kind_from_every_benchmark():
    labels = [pair.equal for pair in pairs()]
    assert labels.count(True) >= 3000 and labels.count(False) >= 3000
    assert len(BENCHMARK_TASKS) == 9
