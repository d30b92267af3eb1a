"""From trace records to score records: every metric of every trajectory, and one verdict.

A score record holds `id, sample, em, f1, acc, char_f1, math_equal, judge, correct, decided_by`. All metrics that a task admits
are stored, because the paper mixes them (exact match for math, token F1 for QA, a judge in the pilot); which of them a
table shows is the table's choice. `correct` is the paper's binary criterion (section 5.3): the judge's verdict for math
where there is one, else mathematical equality; F1 at a threshold for QA. `decided_by` says which of the two it was:
"judge" (which includes what rules settled before it was asked) or "rules".
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tir.errors import DataError
from tir.answers import math, qa
from tir.answers.verifier import Verifier, default_verifier

TASKS = ("math", "qa", "web")
METRICS = ("em", "f1", "acc", "char_f1", "math_equal", "judge", "correct")
FINISHES = ("answer", "length", "budget")

Judgements = Mapping[tuple[str, int], Mapping]


def score_trace(
    trace: Mapping,
    *,
    task: str,
    judge: Mapping | None = None,
    judge_decides: bool = True,
    f1_threshold: float = 0.5,
    golds: str = "best",
    verifier: Verifier | None = None,
) -> dict:
    """Score one trajectory.

    Args:
        trace: a trace record; its `answer` is None where the model gave none (a model fault: scored 0).
        task: math, qa or web, from the benchmark's configuration.
        judge: `{verdict: bool or None, cached: bool}` if a judge read this answer; None is a reply that was no verdict.
        judge_decides: whether its verdict makes `correct`; else it is stored and the rules decide.
        f1_threshold: token F1 from which a QA answer counts as correct (paper section 5.3: 0.5).
        golds: which of several gold answers in words counts: the `best`, or as upstream the `last` (`tir.answers.qa`).
        verifier: workers for symbolic comparison.

    Raises `DataError` for a record that ended in an infrastructure error: it must be made again, never scored.
    """
    where = f"trace {trace.get('id')!r}, sample {trace.get('sample')!r}"
    if trace.get("finish") not in FINISHES or trace.get("error"):
        raise DataError(
            "an unfinished trajectory cannot be scored",
            where=where,
            why=f"it ended with {trace.get('finish')!r} ({trace.get('error') or 'no further reason'})",
            remedy="delete the trace file and run its rule again",
        )
    if task not in TASKS:
        raise DataError("unknown task", where=where, why=f"{task!r} is none of {', '.join(TASKS)}")
    answer, known = trace["answer"], qa.gold_list(trace["gold"])
    if not known:
        raise DataError("trace has no gold answer", where=where)
    measured = _math_metrics(answer, known, verifier) if task == "math" else _text_metrics(answer, known, golds)
    judged = judge_decides and task != "qa" and judge is not None and judge["verdict"] is not None
    return {
        "id": trace["id"],
        "sample": trace["sample"],
        **measured,
        "judge": dict(judge) if judge is not None else None,
        "correct": judge["verdict"] if judged else _correct(task, measured, f1_threshold),
        "decided_by": "judge" if judged else "rules",
    }


def score_traces(
    traces: Sequence[Mapping],
    *,
    task: str,
    judgements: Judgements | None = None,
    judge_decides: bool = True,
    f1_threshold: float = 0.5,
    golds: str = "best",
    workers: int = 1,
    deadline: float = 5.0,
) -> tuple[list[dict], dict]:
    """Score a whole benchmark, in the order of its traces.

    Args:
        judgements: `{(id, sample): {verdict, cached}}`; with it, every trajectory must have one.
        judge_decides, f1_threshold, golds: see `score_trace`.
        workers: symbolic comparisons at once.
        deadline: seconds a symbolic comparison may take before it is tried a second, last time.

    Returns the score records and a report: items, comparisons, time-outs (answers too hard to compare, which count as
    unequal), workers replaced, expressions not understood.
    Raises `DataError` for duplicate, unfinished or unjudged records, `ToolUnavailable` if the machine cannot compare.
    """
    keys = [(trace["id"], trace["sample"]) for trace in traces]
    _refuse("is in the trace file twice", _duplicates(keys))
    if judgements is not None:
        _refuse("has no judgement", [key for key in keys if key not in judgements])
    verifier = Verifier(workers, deadline) if (workers, deadline) != (1, 5.0) else default_verifier()
    if task == "math":
        verifier.self_test()
    score = partial(
        score_trace, task=task, judge_decides=judge_decides, f1_threshold=f1_threshold, golds=golds, verifier=verifier
    )
    before = vars(verifier.counts).copy()
    with ThreadPoolExecutor(workers) as pool:
        records = list(pool.map(lambda trace: score(trace, judge=_find(judgements, trace)), traces))
    report = {"items": len(records)} | {name: count - before[name] for name, count in vars(verifier.counts).items()}
    if report["timeouts"]:
        print(f"{report['timeouts']} of {report['comparisons']} comparisons take too long: unequal", file=sys.stderr)
    return records, report


def judgement_index(rows: Iterable[Mapping]) -> dict[tuple[str, int], dict]:
    """Rows of a judge's file (`id, sample, verdict, cached`) by trajectory."""
    found = {}
    for row in rows:
        verdict = row["verdict"]
        found[row["id"], row["sample"]] = {
            "verdict": None if verdict is None else bool(verdict),
            "cached": bool(row.get("cached", False)),
        }
    return found


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
            remedy=f"choose another metric than {metric} for this benchmark, or run the judge",
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


def _text_metrics(answer: str | None, golds: list, which: str) -> dict:
    if which == "last":
        return _text_metrics(answer, golds[-1:], "best") | qa.upstream_last_gold(answer, golds)
    return {
        "em": qa.exact_match(answer, golds),
        "f1": qa.token_f1(answer, golds),
        "acc": qa.substring_accuracy(answer, golds),
        "char_f1": qa.character_f1(answer, golds),
        "math_equal": None,
    }


def _correct(task: str, measured: Mapping, f1_threshold: float) -> bool:
    if task == "math":
        return measured["math_equal"]
    if task == "web":  # golds are often Chinese, where token F1 is all or nothing
        return measured["char_f1"] >= f1_threshold
    return measured["f1"] >= f1_threshold


def _find(judgements: Judgements | None, trace: Mapping) -> Mapping | None:
    return None if judgements is None else judgements[trace["id"], trace["sample"]]


def _duplicates(keys: list) -> list:
    seen: set = set()
    return [key for key in keys if key in seen or seen.add(key)]


def _refuse(why: str, keys: list) -> None:
    if keys:
        raise DataError(
            f"trajectory {why}",
            where=f"{keys[0]}",
            why=f"{len(keys)} in all",
            remedy="delete the file and run its rule again",
        )
