"""Accuracy tables: Tables 5 and 6 (models by benchmarks), Tables 11 and 12 (one benchmark).

Every number is computed from score records. A row is a label with one model id per seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tir.analysis.contrast import variance_split
from tir.analysis.numbers import fixed, points, probability, significant
from tir.analysis.statistics import Comparison, Estimate, Study, study
from tir.analysis.tables.inputs import Inputs, is_arm
from tir.analysis.tables.layout import Table
from tir.analysis.tables.reference import published_cell
from tir.common.errors import DataError

DETAIL = [
    "table",
    "model",
    "benchmark",
    "metric",
    "score",
    "n",
    "lo",
    "hi",
    "method",
    "seeds",
    "samples",
    "seed_sd",
    "paper",
]
COMPARISONS = [
    "table",
    "a",
    "b",
    "benchmark",
    "difference",
    "lo",
    "hi",
    "n",
    "p",
    "holm_p",
    "holm_over",
    "mde",
    "n_needed",
    "method",
    "verdict",
]
DIGITS = 12  # significant digits of numbers that are rounded once more, for a sentence or a figure
METRIC_NAMES = {
    "em": "exact match",
    "f1": "token F1",
    "acc": "substring accuracy",
    "char_f1": "character F1",
    "math_equal": "mathematical equality",
    "judge": "judge",
    "correct": "correctness criterion",
}


def benchmarks_by_model(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Tables 5 and 6: one row per model, one column per benchmark, and their average.

    Params:
        rows: [{label, models: [id per seed], paper?: label of the paper's row to print beside this one}].
        benchmarks: [{name, label, task, metric}].
    """
    rows, benchmarks = params["rows"], params["benchmarks"]
    result = evaluate(inputs, rows, benchmarks)
    columns = [*(benchmark["name"] for benchmark in benchmarks), "Avg"]
    cells = [[points(result.estimates[row["label"], column].score) for column in columns] for row in rows]
    table = Table(
        caption="Scores (×100) by benchmark; the average weighs benchmarks equally",
        columns=["model", *(benchmark["label"] for benchmark in benchmarks), "Avg"],
        rows=[[row["label"], *scores] for row, scores in zip(rows, cells, strict=True)],
        notes=[metric_note(benchmarks), _spread_note(result, rows), *_verdicts(result)],
        bold={(row, column + 1) for row, column in leaders(score_matrix(result, rows, columns), axis=0)},
    )
    return {
        "": table,
        "detail": detail(name, result, rows, benchmarks),
        "comparisons": comparisons(name, result, benchmarks),
        "variance": _variance(name, inputs, rows, benchmarks),
    }


def models_on_one_benchmark(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Tables 11 and 12: models on one benchmark, with n and the probability of a correct answer.

    Params: rows as for Table 5, each with `data` (its training data, in words); benchmarks: one.
    """
    rows, benchmarks = params["rows"], params["benchmarks"][:1]
    benchmark = benchmarks[0]
    result = evaluate(inputs, rows, benchmarks)
    estimates = [result.estimates[row["label"], benchmark["name"]] for row in rows]
    table = Table(
        caption=f"{METRIC_NAMES[benchmark['metric']].capitalize()} on {benchmark['label']}",
        columns=["model", "training data", "n", "P", "lo", "hi"],
        rows=[
            [row["label"], row.get("data", ""), each.n, *(fixed(value, 3) for value in (each.score, each.lo, each.hi))]
            for row, each in zip(rows, estimates, strict=True)
        ],
        notes=["lo and hi: 95 % interval.", *_verdicts(result, benchmark["name"])],
        bold={(row, 3) for row, _ in leaders(score_matrix(result, rows, [benchmark["name"]]), axis=0)},
    )
    return {
        "": table,
        "detail": detail(name, result, rows, benchmarks),
        "comparisons": comparisons(name, result, benchmarks),
    }


def evaluate(
    inputs: Inputs,
    rows: Sequence[Mapping],
    benchmarks: Sequence[Mapping],
    pairs: Sequence[Sequence[str]] | None = None,
) -> Study:
    """Estimates and comparisons of the rows on the benchmarks, their average, and the math and QA averages."""
    scores = {
        row["label"]: {
            each["name"]: inputs.score_array(row["models"], each["name"], each["metric"]) for each in benchmarks
        }
        for row in rows
    }
    if len(scores) != len(rows):
        raise DataError(
            "two rows of a table have the same label",
            where="rows",
            why=f"the labels are {', '.join(row['label'] for row in rows)}",
            remedy="give each row under `tables` its own label",
        )
    for each in benchmarks:
        items = [inputs.items(row["models"][0], each["name"]) for row in rows]
        different = next((position for position, other in enumerate(items) if other != items[0]), None)
        if different is not None:
            raise DataError(
                "models answered different items",
                where=each["name"],
                why=f"{rows[0]['label']} and {rows[different]['label']} differ in "
                f"{len(items[0] ^ items[different])} items",
                remedy="run all models with the same benchmark file and n",
            )
    macros = {"Avg": [each["name"] for each in benchmarks]}
    for task in ("math", "qa"):
        members = [each["name"] for each in benchmarks if each.get("task") == task]
        if 1 < len(members) < len(benchmarks):
            macros[task] = members
    if pairs is None:
        pairs = [(later["label"], earlier["label"]) for earlier, later in combinations(rows, 2)]
    return study(
        scores,
        arms={row["label"] for row in rows if is_arm(row["models"])},
        macros=macros,
        pairs=[tuple(pair) for pair in pairs],
    )


def detail(name: str, result: Study, rows: Sequence[Mapping], benchmarks: Sequence[Mapping]) -> Table:
    """One row per cell and per average: score and interval in points, n, and the method of the interval."""
    metrics = {each["name"]: each["metric"] for each in benchmarks}
    for macro in ("Avg", "math", "qa"):
        members = [each["metric"] for each in benchmarks if macro in ("Avg", each.get("task"))]
        metrics[macro] = "+".join(dict.fromkeys(members))
    labels = {each["name"]: each["label"] for each in benchmarks}
    paper_rows = {row["label"]: row.get("paper") for row in rows}
    body = []
    for (label, column), estimate in result.estimates.items():
        paper = published_cell(name, paper_rows[label], labels.get(column, column))
        place = [name, label, labels.get(column, column), metrics[column]]
        body.append([*place, *_numbers(estimate), "" if paper is None else paper])
    return Table("Cells with intervals", DETAIL, body)


def comparisons(name: str, result: Study, benchmarks: Sequence[Mapping]) -> Table:
    """One row per pair and column: paired difference and interval in points, p-values, power, verdict in words."""
    labels = {each["name"]: each["label"] for each in benchmarks}
    return Table(
        "Paired comparisons",
        COMPARISONS,
        [
            [
                name,
                each.a,
                each.b,
                labels.get(each.column, each.column),
                *(significant(100 * value, DIGITS) for value in (each.difference, each.lo, each.hi)),
                each.n,
                *("" if p is None else significant(p, DIGITS) for p in (each.p, each.p_holm)),
                each.family,
                "" if each.minimum_detectable is None else significant(100 * each.minimum_detectable, DIGITS),
                each.items_needed,
                each.method,
                each.verdict,
            ]
            for each in result.comparisons
        ],
    )


def _numbers(estimate: Estimate) -> list[Any]:
    score, lo, hi = (significant(100 * value, DIGITS) for value in (estimate.score, estimate.lo, estimate.hi))
    seed_sd = "" if estimate.seed_sd is None else significant(100 * estimate.seed_sd, DIGITS)
    return [score, estimate.n, lo, hi, estimate.method, estimate.seeds, estimate.samples, seed_sd]


def _variance(name: str, inputs: Inputs, rows: Sequence[Mapping], benchmarks: Sequence[Mapping]) -> Table:
    """Standard deviations of each cell, in points: between items, between seeds, and within items (single answers)."""
    body = []
    for row in rows:
        for each in benchmarks:
            variances = variance_split(inputs.score_array(row["models"], each["name"], each["metric"]))
            deviations = [points(variances[source] ** 0.5, 2) for source in ("items", "seeds", "within")]
            body.append([name, row["label"], each["label"], *deviations])
    return Table("Standard deviations", ["table", "model", "benchmark", "sd_items", "sd_seeds", "sd_within"], body)


def score_matrix(result: Study, rows: Sequence[Mapping], columns: Sequence[str]) -> np.ndarray:
    """Scores (rows, columns) as fractions."""
    return np.array([[result.estimates[row["label"], column].score for column in columns] for row in rows])


def metric_note(benchmarks: Sequence[Mapping]) -> str:
    """The metric of each benchmark, as a sentence."""
    by_metric: dict[str, list[str]] = {}
    for each in benchmarks:
        by_metric.setdefault(METRIC_NAMES[each["metric"]], []).append(each["label"])
    return "Metrics: " + "; ".join(f"{metric} for {', '.join(labels)}" for metric, labels in by_metric.items()) + "."


def _spread_note(result: Study, rows: Sequence[Mapping]) -> str:
    parts, once = [], []
    for row in rows:
        each = result.estimates[row["label"], "Avg"]
        parts.append(
            f"{row['label']} {points(each.score)} [{points(each.lo)}, {points(each.hi)}]"
            + (f" over {each.seeds} seeds" if each.seeds > 1 else "")
        )
        if each.seeds == 1 and is_arm(row["models"]):
            once.append(row["label"])
    note = "Averages with 95 % intervals: " + "; ".join(parts) + "."
    if once:
        note += f" One seed of {', '.join(once)}: these intervals are over items; another training run may lie outside."
    return note


def _verdicts(result: Study, column: str = "Avg") -> list[str]:
    return [_sentence(comparison) for comparison in result.comparisons if comparison.column == column]


def _sentence(each: Comparison) -> str:
    difference = f"{each.a} − {each.b}: {points(each.difference, sign=True)}"
    interval = f"[{points(each.lo, sign=True)}, {points(each.hi, sign=True)}]"
    if each.p is None:
        return f"{difference}, over items alone {interval}; {each.verdict}."
    over = f" over items and {each.seeds} seeds" if each.seeds > 1 else ""
    return (
        f"{difference} {interval}{over}, p {probability(each.p, equals=True)} "
        f"({probability(each.p_holm)} corrected for {each.family}), "
        f"smallest detectable {points(each.minimum_detectable)}: {each.verdict}."
    )


def leaders(scores: np.ndarray, axis: int) -> list[tuple[int, int]]:
    """Positions of the best printed values (one decimal of points) along an axis; tied values are all best."""
    shown = np.vectorize(lambda score: float(points(score)))(scores)
    return [
        (int(row), int(column))
        for row, column in zip(*np.where(shown == shown.max(axis=axis, keepdims=True)), strict=True)
    ]
