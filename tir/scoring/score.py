"""Score records from trace records: every metric of every trajectory, and one verdict.

A score record has `id, sample, em, f1, acc, char_f1, math_equal, judge, correct, decided_by`. It stores all metrics of
its task, because the paper uses several (exact match for math, token F1 for QA, a judge in the pilot); a table chooses
which one to show. `correct` is the paper's binary criterion (section 5.3): for math mathematical equality; for QA, F1
at or above a threshold.

The rules decide in a score file: its `judge` is null and its `decided_by` is "rules". A table that reads the judge's
verdicts adds them with `with_verdicts`, so no other table waits for the judge. `decided_by` is then "judge", also for
answers that the judge stage settled by rules, without a request.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from tir.common.errors import DataError
from tir.scoring.answers import math, qa
from tir.scoring.answers.verifier import Verifier, default_verifier
from tir.scoring.metrics import METRICS

TASKS = ("math", "qa", "web")
FINISHES = ("answer", "length", "budget")

Judgements = Mapping[tuple[str, int], Mapping]


def score_trace(
    trace: Mapping,
    *,
    task: str,
    f1_threshold: float = 0.5,
    golds: str = "best",
    verifier: Verifier | None = None,
) -> dict:
    """Score one trajectory.

    Args:
        trace: a trace record; its `answer` is None if the model gave none (a model fault, scored 0).
        task: math, qa or web, from the benchmark's configuration.
        f1_threshold: smallest token F1 of a correct QA answer (paper section 5.3: 0.5).
        golds: for qa and web, score against the `best` of several gold answers, or the `last` as upstream does
            (`tir.scoring.answers.qa`).
        verifier: workers for symbolic comparison.

    Raises `DataError` for a record that ended in an infrastructure fault: it must be generated again, never scored.
    """
    where = f"trace {trace.get('id')!r}, sample {trace.get('sample')!r}"
    if trace.get("finish") not in FINISHES or trace.get("error"):
        raise DataError(
            "an unfinished trajectory cannot be scored",
            where=where,
            why=f"its `finish` is {trace.get('finish')!r} ({trace.get('error') or 'no reason was recorded'})",
            remedy="delete the trace file and run its rule again",
        )
    if task not in TASKS:
        raise DataError("unknown task", where=where, why=f"{task!r} is none of {', '.join(TASKS)}")
    answer, accepted = trace["answer"], qa.gold_list(trace["gold"])
    if not accepted:
        raise DataError("trace has no gold answer", where=where, why="its `gold` is empty")
    metrics = _math_metrics(answer, accepted, verifier) if task == "math" else _text_metrics(answer, accepted, golds)
    return {
        "id": trace["id"],
        "sample": trace["sample"],
        **metrics,
        "judge": None,
        "correct": _correct(task, metrics, f1_threshold),
        "decided_by": "rules",
    }


def score_traces(
    traces: Sequence[Mapping],
    *,
    task: str,
    f1_threshold: float = 0.5,
    golds: str = "best",
) -> tuple[list[dict], dict]:
    """Score a whole benchmark, in the order of its traces.

    Args:
        task: see `score_trace`.
        f1_threshold: see `score_trace`.
        golds: see `score_trace`.

    Returns the score records and a report: items, comparisons, time-outs (such answers count as unequal), replaced
    workers, expressions that could not be parsed.
    Raises `DataError` for duplicate or unfinished records, `ToolUnavailable` if no comparison worker starts.
    """
    keys = [(trace["id"], trace["sample"]) for trace in traces]
    _reject("is in the trace file twice", _duplicates(keys))
    verifier = default_verifier()
    if task == "math":
        verifier.self_test()
    score = partial(score_trace, task=task, f1_threshold=f1_threshold, golds=golds, verifier=verifier)
    before = vars(verifier.counts).copy()
    records = [score(trace) for trace in traces]
    report = {"items": len(records)} | {name: count - before[name] for name, count in vars(verifier.counts).items()}
    if report["timeouts"]:
        print(
            f"{report['timeouts']} of {report['comparisons']} symbolic comparisons exceeded {verifier.deadline:g} s; "
            "these answers count as unequal",
            file=sys.stderr,
        )
    return records, report


def with_verdicts(records: Iterable[Mapping], judgements: Judgements, *, decides: bool = True) -> list[dict]:
    """Score records of math or web answers with the judge's verdicts.

    Args:
        records: score records.
        judgements: `{(id, sample): {verdict}}`; a verdict is None if no reply of the judge could be read.
        decides: whether a verdict determines `correct`; if not, it is only stored.

    Raises `DataError` if a record has no judgement.
    """
    records = list(records)
    keys = [(record["id"], record["sample"]) for record in records]
    _reject("has no judgement", [key for key in keys if key not in judgements])
    joined = []
    for record, key in zip(records, keys, strict=True):
        judge = dict(judgements[key])
        decided = {"correct": judge["verdict"], "decided_by": "judge"}
        joined.append({**record, "judge": judge, **(decided if decides and judge["verdict"] is not None else {})})
    return joined


def judgement_index(rows: Iterable[Mapping]) -> dict[tuple[str, int], dict]:
    """Rows of a judge's file (`id, sample, verdict`) by (id, sample)."""
    index = {}
    for row in rows:
        verdict = row["verdict"]
        index[row["id"], row["sample"]] = {"verdict": None if verdict is None else bool(verdict)}
    return index


def metric_value(record: Mapping, metric: str) -> float:
    """A record's metric as a number; raises `DataError` for a metric its task does not have."""
    value = record.get(metric)
    if metric == "judge" and value is not None:
        value = value["verdict"]
    if value is None or metric not in METRICS:
        raise DataError(
            f"score record has no {metric}",
            where=f"score of {record.get('id')!r}",
            why=f"it has {', '.join(name for name in METRICS if record.get(name) is not None)}",
            remedy="choose one of these metrics for the benchmark"
            + (", or run the judge on it" if metric == "judge" else ""),
        )
    return float(value)


def _math_metrics(answer: str | None, golds: list, verifier: Verifier | None) -> dict:
    return {
        "em": math.math_em(answer, golds),
        "f1": math.math_f1(answer, golds),
        "acc": math.math_accuracy(answer, golds),
        "char_f1": None,
        "math_equal": math.math_equal(answer, golds, verifier),
    }


def _text_metrics(answer: str | None, golds: list, rule: str) -> dict:
    if rule == "last":
        return _text_metrics(answer, golds[-1:], "best") | qa.upstream_last_gold(answer, golds)
    return {
        "em": qa.exact_match(answer, golds),
        "f1": qa.token_f1(answer, golds),
        "acc": qa.substring_accuracy(answer, golds),
        "char_f1": qa.character_f1(answer, golds),
        "math_equal": None,
    }


def _correct(task: str, metrics: Mapping, f1_threshold: float) -> bool:
    if task == "math":
        return metrics["math_equal"]
    if task == "web":  # many golds are Chinese: not split into words, their token F1 is 0 or 1
        return metrics["char_f1"] >= f1_threshold
    return metrics["f1"] >= f1_threshold


def _duplicates(keys: list) -> list:
    seen: set = set()
    return [key for key in keys if key in seen or seen.add(key)]


def _reject(what: str, keys: list) -> None:
    """Raise `DataError` if `keys`, the (id, sample) of faulty trajectories, is not empty."""
    if keys:
        identity, sample = keys[0]
        raise DataError(
            f"trajectory {what}",
            where=f"id {identity!r}, sample {sample}",
            why=f"this holds for {len(keys)} trajectories",
            remedy="delete the file and run its rule again",
        )
