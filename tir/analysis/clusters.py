"""Shares and medians over trajectories, where the items are the clusters.

Trajectories of one item are not independent, and neither are several actions of one trajectory. Both fall into one
cluster, the item.
"""

from __future__ import annotations

import math

import numpy as np

from tir.analysis.statistics import wilson

Counts = tuple[np.ndarray, np.ndarray]  # successes and trials of each cluster, each of shape (clusters,)


def clustered_proportion(successes: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """95 % interval of sum(successes) / sum(trials) when occurrences within a cluster are not independent.

    Wilson's interval with the number of occurrences that would give the same variance if they were independent, and
    Student's quantile over clusters. If the clusters show no variance, because the share is 0 or 1 or the same in each,
    every cluster counts as one occurrence.

    Args:
        successes, trials: per cluster, shape (clusters,); clusters without trials do not count.
    """
    share, clusters = float(np.sum(successes) / np.sum(trials)), int(np.count_nonzero(trials))
    variance = float((_influences(successes, trials) ** 2).sum())
    if not variance:
        return wilson(share * clusters, clusters)
    number = min(share * (1 - share) / variance, float(np.sum(trials)))
    return wilson(share * number, number, freedom=clusters - 1)


def clustered_difference(first: Counts, second: Counts) -> tuple[float, float]:
    """95 % interval of the difference of two such proportions over the same clusters.

    It combines their two intervals and takes the correlation of the two shares into account (Newcombe 1998, Stat. Med.
    17:2635, method 10).
    """
    shares = [float(np.sum(successes) / np.sum(trials)) for successes, trials in (first, second)]
    edges = [clustered_proportion(*counts) for counts in (first, second)]
    influences = [_influences(*counts) for counts in (first, second)]
    sizes = [math.sqrt((each**2).sum()) for each in influences]
    correlation = float(influences[0] @ influences[1]) / math.prod(sizes) if all(sizes) else 0.0
    difference = shares[0] - shares[1]

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0))

    (low, high), (other_low, other_high) = edges
    below = distance(shares[0] - low, other_high - shares[1])
    above = distance(high - shares[0], shares[1] - other_low)
    return difference - below, difference + above


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


def _influences(successes: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """What each cluster adds to the error of the share, shape (clusters,); the sum of squares is its variance."""
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    total, clusters = trials.sum(), np.count_nonzero(trials)
    residuals = successes - trials * successes.sum() / total
    residuals[np.abs(residuals) < 1e-9] = 0.0  # rounding
    return residuals / total * math.sqrt(clusters / max(clusters - 1, 1))
