"""Coverage of the intervals and false positives under training noise, by simulation; written into docs/results.md.

make bench-coverage
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from tir.analysis.numbers import fixed
from tir.analysis.pages import fill
from tir.analysis.statistics import study

PAGE = Path(__file__).resolve().parents[1] / "docs/results.md"
ARMS = ("a", "b", "c", "d")
PAIRS = list(combinations(ARMS, 2))
TRUTH = 0.42  # of every score
NOISE, SEEDS = (0.0, 0.01, 0.02, 0.04), (3, 5, 10)


def simulate(
    draw: np.random.Generator,
    seeds: int,
    noise: float,
    *,
    arms: int = len(ARMS),
    benchmarks: int = 8,
    items: int = 40,
    shared: float = 0.8,
    gains: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Answers (1 right, 0 wrong) of equally good arms, shape (arms, seeds, benchmarks, items).

    Args:
        noise: standard deviation of a seed's score within its arm. Half of its variance is common to all arms, because
            arms share prompts and sampling seeds.
        shared: share of an answer's luck that all models have in common; the rest is half the arm's, half the seed's.
            Greedy answers of similar models agree on most items.
        gains: added to the arms' probability of a right answer, shape (arms, 1, 1, 1).
    """
    ease = 0.1 + 0.8 * draw.beta(0.6, 0.9, (benchmarks, items))
    training = np.sqrt(0.5) * noise * (draw.normal(size=(arms, seeds)) + draw.normal(size=(1, seeds)))
    common, of_arm, of_seed = (
        np.sqrt(share) * draw.normal(size=(*shape, benchmarks, items))
        for share, shape in ((shared, (1, 1)), ((1 - shared) / 2, (arms, 1)), ((1 - shared) / 2, (arms, seeds)))
    )
    return (ndtr(common + of_arm + of_seed) < ease + training[..., None, None] + gains).astype(float)


def as_scores(answers: np.ndarray, names: tuple = ARMS) -> dict[str, dict[str, np.ndarray]]:
    """Simulated answers as the input of `study`."""
    return {
        name: {f"b{number}": of_arm[:, number, :, None] for number in range(of_arm.shape[1])}
        for name, of_arm in zip(names, answers, strict=True)
    }


def measure(seeds: int, noise: float, runs: int, *, seed: int = 0, **settings) -> dict[str, float]:
    """Shares: intervals that hold the truth, and runs in which a pair of equal arms is called different."""
    draw, counts, asked = np.random.default_rng(seed), Counter(), Counter()
    for _ in range(runs):
        scores = as_scores(simulate(draw, seeds, noise, **settings))
        found = study(scores, arms=ARMS, macros={"Avg": list(scores["a"])}, pairs=PAIRS)
        called = {"Avg": False, "cell": False}
        for each in found.comparisons:
            place = "Avg" if each.column == "Avg" else "cell"
            counts[f"difference, {place}"] += each.lo <= 0 <= each.hi
            asked[f"difference, {place}"] += 1
            called[place] |= each.p_holm is not None and each.p_holm < 0.05
        for place, wrong in called.items():
            counts[f"false, {place}"] += wrong
            asked[f"false, {place}"] += 1
        for arm in ARMS:
            average = found.estimates[arm, "Avg"]
            counts["score, Avg"] += average.lo <= TRUTH <= average.hi
            asked["score, Avg"] += 1
    return {name: counts[name] / asked[name] for name in asked}


def table(runs: int) -> str:
    """The shares in percent, as a Markdown table."""
    names = ("score, Avg", "difference, Avg", "difference, cell", "false, Avg", "false, cell")
    titles = (
        "coverage: an average",
        "coverage: difference of averages",
        "coverage: difference in one benchmark",
        "equal averages called different",
        "equal benchmarks called different",
    )
    lines = [f"| seeds | training noise | {' | '.join(titles)} |", f"| ---: | ---: |{' ---: |' * len(names)}"]
    for seeds in SEEDS:
        for noise in NOISE:
            shares = measure(seeds, noise, runs)
            cells = [fixed(100 * shares[name], 1) for name in names]
            lines.append(f"| {seeds} | {fixed(100 * noise, 0)} points | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--runs", type=int, default=1500, help="simulated studies per row")
    arguments = parse.parse_args()
    rows = table(arguments.runs)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill(text, {"coverage": lambda: rows}, command="make bench-coverage"), encoding="utf-8")


if __name__ == "__main__":
    main()
