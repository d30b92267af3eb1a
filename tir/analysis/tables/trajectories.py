"""Tables about actions in trajectories: tool categories of SFT data (2), bigrams (3), first tool offsets (4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tir.analysis.clusters import clustered_difference, clustered_proportion
from tir.analysis.numbers import fixed, points
from tir.analysis.segments import segments_of
from tir.analysis.statistics import wilson
from tir.analysis.tables.inputs import Inputs, read_rows
from tir.analysis.tables.layout import Table
from tir.common.errors import DataError
from tir.rollout.categories import TOOL_CATEGORIES, tool_category
from tir.rollout.protocol import actions, split_output

# The paper's six bigrams with its remarks. Other bigrams that occur are listed after them.
BIGRAMS = {
    ("python", "answer"): "target +",
    ("think", "python"): "",
    ("python", "think"): "target −",
    ("think", "answer"): "bad",
    ("search", "think"): "",
    ("think", "search"): "",
}


@dataclass(frozen=True)
class Behaviour:
    """One scored trajectory: its item, actions, executed calls, first tool offset (characters) and verdict."""

    benchmark: str
    item: str
    task: str
    actions: tuple[str, ...]
    executed: dict[str, int]
    offset: int
    correct: bool

    @property
    def bigrams(self) -> list[tuple[str, str]]:
        return list(pairwise(self.actions))


def behaviours(inputs: Inputs, sets: Sequence[Mapping[str, Any]]) -> list[Behaviour]:
    """Trajectories of `sets`: [{model, benchmark, task, n?}], the first n items of each, joined with their verdicts."""
    return [
        Behaviour(
            benchmark=each["benchmark"],
            item=trace["id"],
            task=each["task"],
            actions=tuple(actions(segments_of(trace))),
            executed={"python": trace["n_python"], "search": trace["n_search"]},
            offset=trace["first_tool_offset"],
            correct=bool(score["correct"]),
        )
        for each, trace, score in scored(inputs, sets)
    ]


def items_of(found: Sequence[Behaviour]) -> np.ndarray:
    """Index of each trajectory's item, shape (trajectories,), from 0 in order of first appearance.

    Trajectories of one item (its samples and seeds) are not independent, so the items are the clusters.
    """
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault((each.benchmark, each.item), len(numbers)) for each in found], int)


def scored(inputs: Inputs, sets: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping, dict, dict]]:
    """(set, trace record, score record) of every trajectory of `sets`, the first n items of each."""
    for each in sets:
        place = each["model"], each["benchmark"]
        scores = {(record["id"], record["sample"]): record for record in inputs.scores(*place)}
        traces = inputs.traces(*place)
        kept = set(list(dict.fromkeys(trace["id"] for trace in traces))[: each.get("n")])
        for trace in traces:
            key = (trace["id"], trace["sample"])
            if key not in scores:
                raise DataError(
                    "trajectory has no score",
                    where=f"scores/{'/'.join(place)}.jsonl",
                    why=f"it has no record of id {key[0]}, sample {key[1]}",
                    remedy=f"rm scores/{'/'.join(place)}.jsonl  # then run again",
                )
            if trace["id"] in kept:
                yield each, trace, scores[key]


def criterion(inputs: Inputs, sets: Sequence[Mapping[str, Any]]) -> str:
    """Whether the judge or the rules decided which trajectories are correct, as a sentence."""
    benchmarks = {"the judge": [], "the rules": []}
    for each in sets:
        decider = "the judge" if inputs.judged(each["model"], each["benchmark"]) else "the rules"
        benchmarks[decider].append(each["benchmark"])
    deciders = "; ".join(f"{who} for {', '.join(dict.fromkeys(names))}" for who, names in benchmarks.items() if names)
    return f"Correct according to {deciders} (rules: mathematical equality, or token F1 of 0.5)."


def sampled(trajectories: Sequence[Behaviour], params: Mapping[str, Any]) -> str:
    """Whose trajectories these are and how they were sampled: "SFT at temperature 1, 4 samples of 120 questions"."""
    models = dict.fromkeys(each["model"].removeprefix("sampled/") for each in params["sets"])
    items = len(set(items_of(trajectories)))
    found = f"{', '.join(models)}: {len(trajectories)} trajectories of {items} questions"
    decoding = params.get("decoding")
    return found + (f", sampled at temperature {decoding['temperature']:g}" if decoding else "")


def tool_categories(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 2: SFT trajectories by the tools they use; input `data`: Alpaca rows, trajectory text in `output`."""
    counts = Counter(text_category(row, str(path)) for path in inputs.data for row in read_rows(path))
    total = sum(counts.values())
    if not total:
        raise DataError(
            "no SFT trajectories",
            where=f"{name}: data",
            why=f"{len(inputs.data)} files with 0 rows were given",
            remedy="pass the SFT file with --data",
        )
    rows = [[each, counts[each], points(counts[each] / total, 2)] for each in TOOL_CATEGORIES]
    return {
        "": Table(
            "Tools used by the trajectories of the SFT data",
            ["category", "count", "percent"],
            [*rows, ["total", total, "100.00"]],
            rule_before={len(TOOL_CATEGORIES)},
        )
    }


def bigrams(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 3: accuracy given each action bigram that occurs, with two intervals, and python→answer - python→think.

    The unit is an occurrence. Wilson's interval treats occurrences as independent. The clustered interval has the items
    as clusters: occurrences in one trajectory share its verdict, and samples of one item are correlated. Tasks differ
    in metric and difficulty; the companion `by_task` has separate rows for each task.

    Params: sets (see `behaviours`), decoding: {temperature, samples}.
    """
    trajectories = behaviours(inputs, params["sets"])
    by_task = []
    for task in dict.fromkeys(each.task for each in trajectories):
        members = [each for each in trajectories if each.task == task]
        by_task += [[task, *row] for row in bigram_rows(members)]
    columns = [
        "bigram",
        "n_correct",
        "n_incorrect",
        "p",
        "lo",
        "hi",
        "lo_clustered",
        "hi_clustered",
        "trajectories",
        "note",
    ]
    tests = _contrasts(trajectories)
    unmeasured = "The paper's contrast of python→answer and python→think is not measured: one of them does not occur."
    table = Table(
        f"Accuracy given an action bigram; {sampled(trajectories, params)}",
        columns,
        bigram_rows(trajectories),
        notes=[
            "lo and hi: Wilson's interval, which treats occurrences as independent. lo_clustered and hi_clustered: "
            "the occurrences of one item are not independent.",
            criterion(inputs, params["sets"]),
            *(
                f"{first} against {second}: difference {difference} [{lo}, {hi}] (clustered)."
                for first, second, difference, lo, hi in tests
            ),
            *([] if tests else [unmeasured]),
        ],
    )
    return {
        "": table,
        "by_task": Table("Accuracy given an action bigram, by task", ["task", *columns], by_task),
        "tests": Table("Contrasts", ["first", "second", "difference", "lo_clustered", "hi_clustered"], tests),
    }


def first_tool_offsets(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 4: median characters before the first tool tag, by verdict, for math, for questions and for both.

    Params: sets, decoding, as for Table 3.
    """
    trajectories = behaviours(inputs, params["sets"])
    tasks = {"math": "math only", "qa": "questions only"}
    subsets = {label: [each for each in trajectories if each.task == task] for task, label in tasks.items()}
    subsets["full sample"] = trajectories
    rows = []
    for label, members in subsets.items():
        offsets = {
            verdict: [each.offset for each in members if each.offset >= 0 and each.correct is verdict]
            for verdict in (True, False)
        }
        rows.append(
            [
                label,
                len(members),
                *(fixed(np.median(offsets[verdict]), 0) if offsets[verdict] else "" for verdict in (True, False)),
                *(len(offsets[verdict]) for verdict in (True, False)),
            ]
        )
    columns = ["subset", "n", "p50_correct", "p50_incorrect", "with_tool_correct", "with_tool_incorrect"]
    return {
        "": Table(
            f"Median characters before the first tool tag; {sampled(trajectories, params)}",
            columns,
            rows,
            notes=[
                "The medians exclude trajectories without a tool call.",
                criterion(inputs, params["sets"]),
            ],
        )
    }


def bigram_rows(trajectories: Sequence[Behaviour]) -> list[list[Any]]:
    """Rows of Table 3: the paper's bigrams, then the others, each group from most to least successful."""
    occurring = {bigram for each in trajectories for bigram in each.bigrams}
    rows = []
    for bigram in sorted(occurring, key=lambda each: (each not in BIGRAMS, -_share(trajectories, each), each)):
        successes, trials = occurrences(trajectories, bigram)
        lo, hi = wilson(successes.sum(), int(trials.sum()))
        clustered = clustered_proportion(successes, trials)
        edges = [fixed(edge, 3) for edge in (lo, hi, *clustered)]
        rows.append(
            [
                arrow(bigram),
                int(successes.sum()),
                int(trials.sum() - successes.sum()),
                fixed(successes.sum() / trials.sum(), 3),
                *edges,
                sum(bigram in each.bigrams for each in trajectories),
                BIGRAMS.get(bigram, ""),
            ]
        )
    return rows


def arrow(bigram: tuple[str, str]) -> str:
    """A bigram as it is printed."""
    return "→".join(bigram)


def _contrasts(trajectories: Sequence[Behaviour]) -> list[list[str]]:
    """The paper's contrast, in all trajectories and within math: [first, second, difference, lo, hi].

    No test of independence: occurrences of one trajectory share its verdict, so it would find too much.
    """
    rows = []
    first, second = ("python", "answer"), ("python", "think")
    subsets = {"": list(trajectories), " (math)": [each for each in trajectories if each.task == "math"]}
    if len(subsets[" (math)"]) == len(trajectories):
        del subsets[" (math)"]
    for suffix, members in subsets.items():
        left, right = occurrences(members, first), occurrences(members, second)
        if not (left[1].sum() and right[1].sum()):
            continue
        lo, hi = clustered_difference(left, right)
        shares = [hit.sum() / total.sum() for hit, total in (left, right)]
        rows.append(
            [
                arrow(first) + suffix,
                arrow(second) + suffix,
                fixed(shares[0] - shares[1], 3),
                fixed(lo, 3),
                fixed(hi, 3),
            ]
        )
    return rows


def occurrences(trajectories: Sequence[Behaviour], bigram: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Occurrences of a bigram in correct trajectories, and in all, each of shape (items,)."""
    trials = np.array([each.bigrams.count(bigram) for each in trajectories], float)
    successes = trials * np.array([each.correct for each in trajectories], float)
    return tuple(np.bincount(items_of(trajectories), weights=counts) for counts in (successes, trials))


def _share(trajectories: Sequence[Behaviour], bigram: tuple[str, str]) -> float:
    successes, trials = occurrences(trajectories, bigram)
    return float(successes.sum() / trials.sum())


def text_category(row: Mapping[str, Any], where: str) -> str:
    """Tool category of a fine-tuning row, from the model's tags in its `output`; tags in tool results do not count."""
    if not isinstance(row.get("output"), str):
        raise DataError("SFT row has no text", where=where, why="its `output` is missing or not a string")
    tags = actions(split_output(row["output"]))
    return tool_category(tags.count("python"), tags.count("search"))
