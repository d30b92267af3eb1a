"""Two models on the same items: how many answers are right or wrong in both, with a test, and the items that differ.

A side of the comparison is one model or an arm with its seeds. Two arms are compared seed by seed. One model is
compared with each seed of an arm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tir.analysis.contrast import contrast
from tir.analysis.items import arm_of
from tir.analysis.segments import segments_of
from tir.analysis.statistics import holm
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.trajectories import arrow
from tir.analysis.tool_errors import failed_calls, is_error, payload
from tir.common.errors import DataError
from tir.rollout.protocol import ACTIONS, Segment, actions

_TAG = re.compile(rf"<(/?)({'|'.join(ACTIONS)})>")
SIDES = ("a", "b")


@dataclass(frozen=True)
class Counts:
    """The 2 x 2 table of one benchmark: numbers of trajectories, and the difference b - a with its test.

    Attributes:
        both, only_a, only_b, neither: trajectories that are right in both models, one of them, or neither.
        difference, lo, hi: share of right answers of b minus that of a, and its 95 % interval.
        p, p_holm: p-value of no difference; the same corrected for the number of benchmarks. Both are None if a side is
            an arm with one seed, because nothing follows about training then.
    """

    benchmark: str
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    lo: float
    hi: float
    p: float | None
    p_holm: float | None = None


def paired_models(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of model ids; one model is paired with each of several. Raises `DataError` for other unequal numbers."""
    length = max(len(a), len(b))
    if {len(a), len(b)} - {1, length}:
        raise DataError(
            "two arms with different numbers of seeds",
            where="compare",
            why=f"{len(a)} of {arm_of(a[0])} and {len(b)} of {arm_of(b[0])}, so seeds cannot be paired",
            remedy="compare models of single seeds, or train both arms with the same rl.seeds",
        )
    wide = [list(side) * length if len(side) == 1 else side for side in (a, b)]
    return list(zip(*wide, strict=True))


def counts(
    inputs: Inputs, pairs: Sequence[tuple[str, str]], benchmarks: Sequence[str], *, once: bool = False
) -> list[Counts]:
    """The table of each benchmark. Raises `DataError` if two models answered different items or samples.

    Args:
        once: one of the sides is an arm with one seed, so there is no test.
    """
    found = []
    for benchmark in benchmarks:
        models = [model for side in zip(*pairs, strict=True) for model in side]
        a, b = np.split(inputs.score_array(models, benchmark, "correct"), 2)
        same = contrast([(b - a).mean(axis=2)], paired=True)
        a, b = a.astype(bool), b.astype(bool)
        cells = [int(each.sum()) for each in (a & b, a & ~b, b & ~a, ~a & ~b)]
        interval = np.clip(same.interval(), -1, 1).tolist()
        found.append(Counts(benchmark, *cells, same.value, *interval, None if once else same.p()))
    if once:
        return found
    corrected = holm([each.p for each in found])
    return [Counts(**{**vars(each), "p_holm": p}) for each, p in zip(found, corrected, strict=True)]


def changed(inputs: Inputs, pairs: Sequence[tuple[str, str]], benchmark: str) -> Iterator[dict[str, Any]]:
    """The trajectories that are right in one model only, in the order of the items.

    Each has `item`, `sample`, `pair` (its number), `right` (0: a, 1: b), `question`, `gold` and `sides`, the two
    trajectories as `trajectory` gives them.
    """
    for number, pair in enumerate(pairs):
        verdicts = [inputs.correct(model, benchmark) for model in pair]
        records = [{(row["id"], row["sample"]): row for row in inputs.traces(model, benchmark)} for model in pair]
        for key in (key for key, verdict in verdicts[0].items() if verdict != verdicts[1][key]):
            for model, side in zip(pair, records, strict=True):
                if key not in side:
                    raise DataError(
                        "no trajectory of an item that changed",
                        where=f"{model} on {benchmark}",
                        why=f"its scores have item {key[0]}, sample {key[1]}, its traces have not",
                        remedy="delete the trace file and run its rule again",
                    )
            first = records[0][key]
            yield {
                "item": str(key[0]),
                "sample": key[1],
                "pair": number,
                "right": int(verdicts[1][key]),
                "question": first["question"],
                "gold": first["gold"] if isinstance(first["gold"], list) else [first["gold"]],
                "sides": [trajectory(side[key]) for side in records],
            }


def trajectory(trace: Mapping[str, Any]) -> dict[str, Any]:
    """A trajectory for the page: its answer, its end, its tokens, its bigrams, tool errors, and its parts in order."""
    segments = segments_of(trace)
    return {
        "answer": trace["answer"],
        "finish": trace["finish"],
        "tokens": trace["usage"].get("response_tokens"),
        "bigrams": sorted({arrow(pair) for pair in pairwise(actions(segments))}),
        "errors": failed_calls(segments),
        "parts": [part for number in range(len(segments)) for part in _parts(segments, number)],
    }


def pair_label(pair: tuple[str, str]) -> str:
    """What distinguishes a pair from the others: `seed 2`; empty if neither side is a checkpoint of an arm."""
    seed = next((found["seed"] for model in pair if (found := arm_of(model))["seed"] is not None), None)
    return "" if seed is None else f"seed {seed}"


def _parts(segments: Sequence[Segment], number: int) -> list[list[str]]:
    """[kind, text] of a segment: an action, `text` outside of actions, `result`, or `error` of a failed call."""
    segment = segments[number]
    if segment.by == "model":
        return list(model_parts(segment.text))
    failed = number > 0 and is_error(segments[number - 1], segment)
    return [["error" if failed else "result", payload(segment.text)]]


def model_parts(text: str) -> Iterator[list[str]]:
    """Actions of a model's text as [kind, text] without tags; `think, not closed` if the closing tag is missing."""
    kind, start = "", 0
    for tag in _TAG.finditer(text):
        closing, name = tag[1], tag[2]
        if closing and name != kind:
            continue  # a closing tag without an opening one is text
        if body := text[start : tag.start()]:
            if kind or body.strip():
                yield [kind + ("" if closing else ", not closed") if kind else "text", body]
        kind, start = ("" if closing else name), tag.end()
    if text[start:].strip():
        yield [f"{kind}, not closed" if kind else "text", text[start:]]
