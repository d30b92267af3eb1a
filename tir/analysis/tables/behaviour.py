"""How models behave on the benchmarks (bigrams, first tool, calls, length), and what phi does in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.analysis.numbers import fixed, points
from tir.analysis.segments import segments_of
from tir.analysis.tables.inputs import Inputs, is_arm
from tir.analysis.tables.layout import Table
from tir.analysis.tables.trajectories import arrow
from tir.rollout.behaviour import measures as behaviour_of

TASKS = ("math", "qa")
TERMS = ("closure", "backtrack", "early_tool")


def measures(trace: Mapping[str, Any]) -> dict[Any, float]:
    """What the trajectory of a trace record does (`tir.rollout.behaviour`)."""
    tokens = trace["usage"].get("response_tokens", np.nan)
    return behaviour_of(segments_of(trace), trace["first_tool_offset"], trace["finish"], tokens)


def summary(inputs: Inputs, model: str, benchmarks: Sequence[Mapping]) -> dict[Any, float]:
    """Measures of all trajectories of a checkpoint on benchmarks: medians of `offset` and `share`, means of the others.

    `n` is the number of trajectories, `with_tool` that of those with a tool call.
    """
    found = [measures(trace) for each in benchmarks for trace in inputs.traces(model, each["name"])]
    names = dict.fromkeys(name for each in found for name in each)
    columns = {name: np.array([each.get(name, 0) for each in found], float) for name in names}
    tools = ~np.isnan(columns["offset"])
    result = {"n": len(found), "with_tool": int(tools.sum())}
    for name, values in columns.items():
        if name in ("offset", "share"):
            result[name] = float(np.median(values[tools])) if tools.any() else np.nan
        else:
            result[name] = float(values.mean())
    return result


def mean_of_seeds(seeds: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """Means over checkpoints, of those that have a value; `n` and `with_tool` are sums."""
    result: dict[Any, float] = {}
    for name in dict.fromkeys(name for each in seeds for name in each):
        values = [value for each in seeds if not np.isnan(value := each.get(name, 0.0))]
        total = sum(values)
        result[name] = total if name in ("n", "with_tool") else total / len(values) if values else np.nan
    return result


def behaviour(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """One row per model and task, and in the companion `seeds` one per checkpoint.

    Params: rows: [{label, models}]; benchmarks: [{name, task}]; decoding: {temperature, samples}.
    """
    by_task = {task: [each for each in params["benchmarks"] if each["task"] == task] for task in TASKS}
    groups = [
        (row, task, {model: summary(inputs, model, members) for model in row["models"]})
        for task, members in by_task.items()
        if members
        for row in params["rows"]
    ]
    bigrams = sorted({key for *_, seeds in groups for each in seeds.values() for key in each if isinstance(key, tuple)})
    columns = ["model", "task", "trajectories", *map(arrow, bigrams)]
    columns += ["calls", "first_tool", "first_tool_share", "with_tool", "tokens", "truncated"]
    once = [row["label"] for row in params["rows"] if is_arm(row["models"]) and len(row["models"]) == 1]
    sampled = f"temperature {params['decoding']['temperature']:g}, {params['decoding']['samples']} per item"
    return {
        "": Table(
            "Behaviour of the models on the benchmarks",
            columns,
            [_row(row["label"], task, mean_of_seeds([*seeds.values()]), bigrams) for row, task, seeds in groups],
            notes=[
                "A bigram's column is its number of occurrences per trajectory; calls are tool tags written per "
                "trajectory. first_tool is the median number of characters before the first tool, first_tool_share the "
                "median of that number divided by the characters that the model wrote; both are over trajectories with "
                "a tool, whose number is in with_tool. tokens is the mean response length, truncated the percentage "
                "that reached the limit of length.",
                f"Trajectories of the accuracy tables ({sampled}). A model with several seeds has their means.",
                *([f"One seed of {', '.join(once)}: another run of the same arm may differ."] if once else []),
            ],
        ),
        "seeds": Table(
            "The same by checkpoint",
            columns,
            [_row(model, task, found, bigrams) for _, task, seeds in groups for model, found in seeds.items()],
        ),
    }


def _row(label: str, task: str, found: Mapping[Any, float], bigrams: Sequence[tuple[str, str]]) -> list[Any]:
    return [
        label,
        task,
        found["n"],
        *(fixed(found.get(bigram, 0.0), 2) for bigram in bigrams),
        fixed(found["calls"], 2),
        _blank(found["offset"], 1),
        _blank(found["share"], 3),
        found["with_tool"],
        _blank(found["tokens"], 1),
        points(found["truncated"]),
    ]


def _blank(value: float, digits: int) -> str:
    return "" if np.isnan(value) else fixed(value, digits)


def shaping(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """What phi did in training, from the diagnostics of `aspo.diagnostics`; params: arms.

    One row per arm with the means over steps and seeds of phi's share of the signal, and in the companion `fire` how
    often each term is not zero, by task and by outcome.
    """
    body, fire, silent = [], [], []
    for arm in params["arms"]:
        runs = inputs.metrics(arm)
        logged = [row for rows in runs.values() for row in rows]
        if not any("aspo/shift_share" in row for row in logged):
            silent.append(arm)
            continue
        steps = sum("aspo/shift_share" in row for row in logged)
        shares = ("shift_share", "phi_only_share", "zero_variance_groups", "sign_flips")
        ratios = [f"variance_ratio/{task}" for task in TASKS]
        body.append([arm, len(runs), steps, *(_mean(logged, f"aspo/{key}") for key in (*shares, *ratios))])
        for term in TERMS:
            places = [f"{task}/{outcome}" for task in TASKS for outcome in ("correct", "wrong")]
            fire.append([arm, term, *(_mean(logged, f"aspo/fire/{term}/{place}") for place in places)])
    notes = [
        "Means over steps and seeds. shift_share: phi's part of the sum of both parts of the advantage, in absolute "
        "value. phi_only_share: part of the advantage in groups with equal rewards, where only phi gives a gradient. "
        "variance_ratio: variance of the advantage with phi divided by that without; below 1, phi reduces it.",
        "An empty cell: no step had such trajectories.",
    ]
    if silent:
        notes.append(f"Without phi: {', '.join(silent)}.")
    columns = ["arm", "seeds", "steps", "shift_share", "phi_only_share", "groups_of_equal_reward", "sign_flips"]
    return {
        "": Table(
            "What the shaping term does in training",
            [*columns, "variance_ratio_math", "variance_ratio_qa"],
            body,
            notes,
        ),
        "fire": Table(
            "Share of trajectories in which a term of phi is not zero",
            ["arm", "term", "math_correct", "math_wrong", "qa_correct", "qa_wrong"],
            fire,
        ),
    }


def _mean(logged: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in logged if key in row]
    return fixed(float(np.mean(values)), 3) if values else ""
