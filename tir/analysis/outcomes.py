"""The outcomes of a study: what each arm does at the end of training, beside a baseline, by seed and item.

An outcome on benchmarks is a table (seeds, items) per benchmark: accuracy, what was forgotten, and behaviour
(`tir.rollout.behaviour`). An outcome of training has one value per seed.

Params of the tables of a study:
    baseline, arms: {arm, models: [id per seed]}, and a list of them.
    seeds: numbers of the seeds, in the order of the models.
    start: model that training started from, for what was forgotten.
    benchmarks: [{name, label, task, metric}].
    effects: smallest effect of interest by measure; `power` also reads power and planned_seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tir.analysis.contrast import Contrast, all_equal, contrast
from tir.analysis.tables.behaviour import TASKS, measures
from tir.analysis.tables.curves import curve
from tir.analysis.tables.inputs import Inputs, same_items
from tir.analysis.tables.trajectories import arrow
from tir.common.errors import DataError
from tir.rollout.behaviour import TOOL_BIGRAMS

# Measures of behaviour by their names in `tir.rollout.behaviour`, and metrics of training by their names in verl.
BEHAVIOUR = {
    "calls": "calls",
    "offset": "first_tool",
    "share": "first_tool_share",
    "tokens": "tokens",
    "truncated": "truncated",
}
TRAINING = {"kl": "actor/kl_loss", "entropy": "actor/entropy_loss"}
UNITS = {
    "accuracy": "points",
    "forgotten": "points",
    "bigram": "per trajectory",
    "calls": "per trajectory",
    "first_tool": "characters",
    "first_tool_share": "share of the text",
    "tokens": "tokens",
    "truncated": "points",
    "kl": "nats per token",
    "entropy": "nats per token",
}
LAST = 4  # a metric of training is its mean over the last quarter of the steps


@dataclass(frozen=True)
class Measured:
    """One outcome of an arm beside the baseline.

    Attributes:
        arm, outcome, measure, task: which; `measure` is the outcome's name, or `bigram` for every bigram.
        family: comparisons that one correction is over: accuracy (with what was forgotten), behaviour or training.
        own, baseline: values of the arm and of the baseline, (seeds, items) per benchmark; of training, [(seeds, 1)].
        left_out: items that are not compared, because a run has no value for them (no tool call).
    """

    arm: str
    outcome: str
    measure: str
    task: str
    family: str
    own: list[np.ndarray]
    baseline: list[np.ndarray]
    left_out: int = 0

    @property
    def scale(self) -> int:
        """Factor of the printed values."""
        return 100 if UNITS[self.measure] == "points" else 1

    @cached_property
    def differences(self) -> list[np.ndarray]:
        """Arm minus baseline, seed by seed and item by item."""
        return [own - baseline for own, baseline in zip(self.own, self.baseline, strict=True)]

    @cached_property
    def contrast(self) -> Contrast | None:
        """The mean difference over benchmarks; None if no benchmark has two items that can be compared."""
        if not self.own:
            return None
        if self.family == "training":
            return over_seeds(self.differences[0][:, 0])
        return contrast(self.differences, paired=True)

    @property
    def seeds(self) -> int:
        return len(self.own[0]) if self.own else 0


def over_seeds(values: np.ndarray) -> Contrast:
    """The mean of one value per seed, (seeds,), with Student's interval over seeds.

    One seed, or seeds that are all equal, do not show how much seeds differ: the variance is infinite.
    """
    seeds = len(values)
    variance = np.inf if all_equal(values) else float(values.var(ddof=1)) / seeds
    return Contrast(
        value=float(values.mean()),
        items=0.0,
        training=variance,
        variance=variance,
        freedom=max(seeds - 1, 1),
        n=0,
        effective_items=np.inf,
        seeds=seeds,
        typical=0.0,
    )


def measured(inputs: Inputs, params: Mapping[str, Any]) -> list[Measured]:
    """Every outcome of every arm, in the order of the outcomes. Bigrams that no run shows in a task are left out."""
    found = []
    for task in TASKS:
        members = [each for each in params["benchmarks"] if each["task"] == task]
        if members:
            found += _on_benchmarks(inputs, params, task, members)
    return [*found, *_of_training(inputs, params)]


def _on_benchmarks(inputs: Inputs, params: Mapping[str, Any], task: str, members: Sequence[Mapping]):
    models = [model for arm in (params["baseline"], *params["arms"]) for model in arm["models"]]
    scores = [inputs.score_array(models, each["name"], each["metric"]).mean(axis=2) for each in members]
    yield from _compared(params, "accuracy", "accuracy", task, "accuracy", scores)
    if task == "qa":
        tables = [_forgotten(inputs, params["start"], models, each["name"]) for each in members]
        # One share of all items: a benchmark of which the start answers few would else decide.
        yield from _compared(params, "forgotten", "forgotten", task, "accuracy", [np.concatenate(tables, axis=1)])
    behaviour = [behaviour_tables(inputs, models, each["name"]) for each in members]
    for bigram in TOOL_BIGRAMS:
        if any(bigram in tables for tables in behaviour):
            tables = [each.get(bigram, np.zeros_like(table)) for each, table in zip(behaviour, scores, strict=True)]
            yield from _compared(params, arrow(bigram), "bigram", task, "behaviour", tables)
    for key, measure in BEHAVIOUR.items():
        yield from _compared(params, measure, measure, task, "behaviour", [tables[key] for tables in behaviour])


def _forgotten(inputs: Inputs, start: str, models: Sequence[str], benchmark: str) -> np.ndarray:
    """1 where a model is wrong and the start is right in every sample, 0 where both are right, (models, items)."""
    correct = inputs.score_array([start, *models], benchmark, "correct").mean(axis=2)
    return 1.0 - correct[1:, correct[0] == 1]


def behaviour_tables(inputs: Inputs, models: Sequence[str], benchmark: str) -> dict[Any, np.ndarray]:
    """Each measure of behaviour that occurs, (models, items); the mean over the samples that have a value, or NaN.

    Raises `DataError` if two models answered different items.
    """
    by_model: list[dict[Any, list[Mapping]]] = []
    for model in models:
        items: dict[Any, list[Mapping]] = {}
        for trace in inputs.traces(model, benchmark):
            items.setdefault(trace["id"], []).append(measures(trace))
        by_model.append(items)
        same_items(by_model[0], items, f"{models[0]} and {model} on {benchmark}")
    names = dict.fromkeys(name for items in by_model for found in items.values() for each in found for name in each)
    return {
        name: np.array([[_mean(items[item], name) for item in sorted(items)] for items in by_model]) for name in names
    }


def _mean(found: Sequence[Mapping], name: Any) -> float:
    values = [value for each in found if not np.isnan(value := float(each.get(name, 0)))]
    return sum(values) / len(values) if values else np.nan


def _compared(params: Mapping[str, Any], outcome: str, measure: str, task: str, family: str, tables) -> Iterator:
    """An outcome of every arm, from tables (models, items): the models of the baseline, then those of each arm."""
    first = len(params["baseline"]["models"])
    for arm in params["arms"]:
        last = first + len(arm["models"])
        pairs = [(table[first:last], table[: len(params["baseline"]["models"])]) for table in tables]
        kept, left_out = [], 0
        for own, baseline in pairs:
            both = np.isfinite(own).all(axis=0) & np.isfinite(baseline).all(axis=0)
            if both.sum() < 2:  # no variance between items
                both[:] = False
            left_out += int((~both).sum())
            if both.any():
                kept.append((own[:, both], baseline[:, both]))
        yield Measured(
            arm["arm"], outcome, measure, task, family, [own for own, _ in kept], [base for _, base in kept], left_out
        )
        first = last


def _of_training(inputs: Inputs, params: Mapping[str, Any]) -> Iterator[Measured]:
    """Means over the last steps of the metrics of training that every run has logged."""
    arms = [each["arm"] for each in (params["baseline"], *params["arms"])]
    for measure, key in TRAINING.items():
        tables = {}
        for arm in arms:
            runs = inputs.metrics(arm)
            if missing := set(params["seeds"]) - runs.keys():
                raise DataError(
                    "no metrics of a run", where=f"runs/rl/{arm}", why=f"seeds {sorted(missing)} are missing"
                )
            if not all(any(key in row for row in runs[seed]) for seed in params["seeds"]):
                break
            _, values = curve({seed: runs[seed] for seed in params["seeds"]}, key, arm)
            tables[arm] = values[:, -max(1, values.shape[1] // LAST) :].mean(axis=1, keepdims=True)
        else:
            for arm in arms[1:]:
                yield Measured(arm, measure, measure, "all", "training", [tables[arm]], [tables[arms[0]]])
