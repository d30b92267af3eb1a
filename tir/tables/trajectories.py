"""Tables about what trajectories do: tool categories of SFT data (2), bigrams (3), first tool offsets (4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from tir.errors import DataError
from tir.protocol import actions, split_output
from tir.statistics import clustered_difference, clustered_proportion, wilson
from tir.tables.inputs import Inputs, read_rows, segments_of
from tir.tables.layout import Table

CATEGORIES = ("python_only", "search_only", "no_tools", "mixed")
# The paper's six bigrams with its remarks; any other that occurs is listed after them.
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
    """One scored trajectory as these tables see it: its place, actions, first tool offset (characters) and verdict."""

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
    found = []
    for each, trace, score in scored(inputs, sets):
        executed = {"python": trace["n_python"], "search": trace["n_search"]}
        done = tuple(actions(segments_of(trace)))
        found.append(
            Behaviour(
                each["benchmark"],
                trace["id"],
                each["task"],
                done,
                executed,
                trace["first_tool_offset"],
                bool(score["correct"]),
            )
        )
    return found


def items_of(found: Sequence[Behaviour]) -> np.ndarray:
    """Number of each trajectory's item, shape (trajectories,), from 0 in order of appearance.

    Samples of an item, and the answers of several seeds to it, are no independent trajectories: items are resampled.
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
                raise DataError("trajectory has no score", where="/".join(place), why=f"{key}")
            if trace["id"] in kept:
                yield each, trace, scores[key]


def criterion(inputs: Inputs, sets: Sequence[Mapping[str, Any]]) -> str:
    """Who called the trajectories correct, as a sentence."""
    by = {"the judge": [], "the rules": []}
    for each in sets:
        by["the judge" if inputs.judged(each["model"], each["benchmark"]) else "the rules"].append(each["benchmark"])
    said = "; ".join(f"{who} for {', '.join(dict.fromkeys(names))}" for who, names in by.items() if names)
    return f"Correct according to {said} (rules: mathematical equality, or token F1 of 0.5)."


def category(python: int, search: int) -> str:
    """Tool category of a trajectory from its calls of each tool."""
    if python and search:
        return "mixed"
    return "python_only" if python else "search_only" if search else "no_tools"


def tool_categories(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 2: the SFT trajectories by the tools they use; input `data`: Alpaca rows with their text in `output`."""
    counts = Counter(text_category(row, str(path)) for path in inputs.data for row in read_rows(path))
    total = sum(counts.values())
    if not total:
        raise DataError("no SFT trajectories", where=f"{name}: data", remedy="pass the SFT file with --data")
    rows = [[each, counts[each], f"{100 * counts[each] / total:.2f}"] for each in CATEGORIES]
    return {
        "": Table(
            "Tools used by the trajectories of the SFT data",
            ["category", "count", "percent"],
            [*rows, ["total", total, "100.00"]],
            rule_before={len(CATEGORIES)},
        )
    }


def bigrams(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 3: accuracy given an action bigram, with two intervals, and the contrast of its two extremes.

    The unit is an occurrence. Wilson's interval takes occurrences as independent; the clustered one resamples
    items with all their trajectories, since occurrences within one share its verdict and samples of one item are alike. The
    companion `by_task` does not pool over tasks,
    which differ in metric and difficulty. Params: sets (see `behaviours`), statistics: {resamples, seed}.
    """
    found, statistics = behaviours(inputs, params["sets"]), params.get("statistics", {})
    by_task = []
    for task in dict.fromkeys(each.task for each in found):
        members = [each for each in found if each.task == task]
        by_task += [[task, *row] for row in bigram_rows(members, statistics)]
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
    tests = _contrasts(found, statistics)
    unmeasured = "The paper's contrast of python→answer and python→think is not measured: one does not occur."
    table = Table(
        f"Accuracy given an action bigram, {len(found)} trajectories",
        columns,
        bigram_rows(found, statistics),
        notes=[
            "lo and hi: Wilson, occurrences as if independent; clustered: items resampled with their trajectories.",
            criterion(inputs, params["sets"]),
            *(
                f"{first} against {second}: difference {difference} [{lo}, {hi}] (clustered), Fisher p = {p}."
                for first, second, difference, lo, hi, p in tests
            ),
            *([] if tests else [unmeasured]),
        ],
    )
    return {
        "": table,
        "by_task": Table("The same, within task", ["task", *columns], by_task),
        "tests": Table(
            "Contrasts", ["first", "second", "difference", "lo_clustered", "hi_clustered", "fisher_p"], tests
        ),
    }


def first_tool_offsets(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 4: median characters before the first tool tag, by verdict, for math and for everything; params: sets."""
    found = behaviours(inputs, params["sets"])
    subsets = {"math only": [each for each in found if each.task == "math"], "full sample": found}
    rows = []
    for label, members in subsets.items():
        used = {
            verdict: [each.offset for each in members if each.offset >= 0 and each.correct is verdict]
            for verdict in (True, False)
        }
        rows.append(
            [
                label,
                len(members),
                *(f"{np.median(used[verdict]):.0f}" if used[verdict] else "" for verdict in (True, False)),
                *(len(used[verdict]) for verdict in (True, False)),
            ]
        )
    columns = ["subset", "n", "p50_correct", "p50_incorrect", "with_tool_correct", "with_tool_incorrect"]
    return {
        "": Table(
            "Median characters before the first tool tag",
            columns,
            rows,
            notes=[
                "Trajectories without a tool have no offset and are left out of the medians.",
                criterion(inputs, params["sets"]),
            ],
        )
    }


def bigram_rows(found: Sequence[Behaviour], statistics: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of Table 3 for some trajectories, most successful bigram first."""
    seen = Counter(bigram for each in found for bigram in each.bigrams)
    rows = []
    for bigram in sorted(seen, key=lambda each: (each not in BIGRAMS, -_share(found, each), each)):
        successes, trials = _occurrences(found, bigram)
        lo, hi = wilson(successes.sum(), int(trials.sum()))
        clustered = clustered_proportion(successes, trials, **_resampling(statistics))
        edges = [f"{edge:.3f}" for edge in (lo, hi, *clustered)]
        rows.append(
            [
                arrow(bigram),
                int(successes.sum()),
                int(trials.sum() - successes.sum()),
                f"{successes.sum() / trials.sum():.3f}",
                *edges,
                sum(bigram in each.bigrams for each in found),
                BIGRAMS.get(bigram, ""),
            ]
        )
    return rows


def arrow(bigram: tuple[str, str]) -> str:
    """A bigram as it is printed."""
    return "→".join(bigram)


def _contrasts(found: Sequence[Behaviour], statistics: Mapping[str, Any]) -> list[list[str]]:
    """The paper's contrast, in all trajectories and within math: [first, second, difference, lo, hi, Fisher p]."""
    rows = []
    first, second = ("python", "answer"), ("python", "think")
    subsets = {"": list(found), " (math)": [each for each in found if each.task == "math"]}
    if len(subsets[" (math)"]) == len(found):
        del subsets[" (math)"]
    for suffix, members in subsets.items():
        left, right = _occurrences(members, first), _occurrences(members, second)
        if not (left[1].sum() and right[1].sum()):
            continue
        lo, hi = clustered_difference(left, right, **_resampling(statistics))
        table = [[int(hit.sum()), int(total.sum() - hit.sum())] for hit, total in (left, right)]
        shares = [hit / (hit + miss) for hit, miss in table]
        rows.append(
            [
                arrow(first) + suffix,
                arrow(second) + suffix,
                f"{shares[0] - shares[1]:.3f}",
                f"{lo:.3f}",
                f"{hi:.3f}",
                f"{fisher_exact(table).pvalue:.2e}",
            ]
        )
    return rows


def _occurrences(found: Sequence[Behaviour], bigram: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Per item, occurrences of a bigram in a correct answer, and in all."""
    trials = np.array([each.bigrams.count(bigram) for each in found], float)
    successes = trials * np.array([each.correct for each in found], float)
    return tuple(np.bincount(items_of(found), weights=counts) for counts in (successes, trials))


def _share(found: Sequence[Behaviour], bigram: tuple[str, str]) -> float:
    successes, trials = _occurrences(found, bigram)
    return float(successes.sum() / trials.sum())


def _resampling(statistics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: statistics[key] for key in ("resamples", "seed", "level") if key in statistics}


def text_category(row: Mapping[str, Any], where: str) -> str:
    """Tool category of a fine-tuning row, from what the model wrote in its `output`."""
    if not isinstance(row.get("output"), str):
        raise DataError("SFT row has no text", where=where, why="its `output` is missing or no string")
    written = actions(split_output(row["output"]))
    return category(written.count("python"), written.count("search"))
