"""Intervals of shares and medians over trajectories, by resampling items with all their trajectories.

Trajectories of one item are not independent, and neither are several actions of one trajectory. Both fall into one
cluster, the item.
"""

from __future__ import annotations

import math

import numpy as np

from tir.analysis.statistics import wilson


def clustered_proportion(
    successes: np.ndarray, trials: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval of sum(successes) / sum(trials) when occurrences within a cluster (an item) are not independent.

    A share of 0 or 1 has no bootstrap variance; it gets Wilson's interval with n = clusters that have trials.

    Args:
        successes, trials: per cluster, shape (clusters,); clusters with 0 trials count as clusters.
    """
    share, clusters = np.sum(successes) / np.sum(trials), int(np.count_nonzero(trials))
    if share in (0, 1):
        return wilson(share * clusters, clusters, level)
    draws = _ratio_draws(successes, trials, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def clustered_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the difference of two such proportions over the same clusters, resampled together.

    If one of them is 0 or 1, their two intervals are combined instead (Newcombe 1998, Stat. Med. 17:873, method 10).
    """
    shares = [np.sum(successes) / np.sum(trials) for successes, trials in (first, second)]
    if {0, 1} & set(shares):
        (low, high), (other_low, other_high) = (
            clustered_proportion(*counts, level=level, resamples=resamples, seed=seed) for counts in (first, second)
        )
        difference = shares[0] - shares[1]
        below = math.hypot(shares[0] - low, other_high - shares[1])
        above = math.hypot(high - shares[0], shares[1] - other_low)
        return float(difference - below), float(difference + above)
    draws = _ratio_draws(*first, resamples, seed) - _ratio_draws(*second, resamples, seed)
    return tuple(float(edge) for edge in np.nanquantile(draws, (0.5 - level / 2, 0.5 + level / 2)))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians of values repeated by integer weights, shape (resamples,); NaN where all weights are 0.

    Args:
        values: (n,).
        weights: (resamples, n).
    """
    order = np.argsort(values)
    cumulative = weights[:, order].cumsum(axis=1)
    half = cumulative[:, -1:] / 2
    lower, upper = (values[order][np.argmax(passed, axis=1)] for passed in (cumulative >= half, cumulative > half))
    return np.where(half[:, 0] > 0, (lower + upper) / 2, np.nan)


def _ratio_draws(successes: np.ndarray, trials: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    weights = np.random.default_rng(seed).multinomial(len(trials), np.full(len(trials), 1 / len(trials)), resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ successes) / (weights @ trials)
