"""Table 1: accuracy and tool calls by benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.analysis.numbers import fixed, points
from tir.analysis.segments import segments_of
from tir.analysis.tables.accuracy import detail, evaluate, leaders, metric_note, score_matrix
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.rollout.protocol import TOOLS, actions


def accuracy_and_tools(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 1: per benchmark, accuracy and tool calls of each model, and their averages.

    Calls are the tags that a model wrote, as the paper counts them, including tags beyond the call budget. The
    companion `calls` lists them beside the calls that were executed. Params: as for Table 5; needs traces.
    """
    rows, benchmarks = params["rows"], params["benchmarks"]
    result = evaluate(inputs, rows, benchmarks)
    counts = {
        (row["label"], benchmark["name"]): _tool_counts(inputs, row["models"], benchmark["name"])
        for row in rows
        for benchmark in benchmarks
    }
    labels = [row["label"] for row in rows]
    pairs = [(tool, label) for tool in TOOLS for label in labels]
    columns = ["benchmark", *(f"acc_{label}" for label in labels), *(f"{tool}_{label}" for tool, label in pairs)]
    body = []
    for each in benchmarks:
        scores = [points(result.estimates[label, each["name"]].score) for label in labels]
        body.append([each["label"], *scores, *(fixed(counts[label, each["name"]][tool], 2) for tool, label in pairs)])
    averages = [np.mean([counts[label, each["name"]][tool] for each in benchmarks]) for tool, label in pairs]
    scores = [points(result.estimates[label, "Avg"].score) for label in labels]
    body.append(["Avg", *scores, *(fixed(average, 2) for average in averages)])
    accuracies = score_matrix(result, rows, [*(each["name"] for each in benchmarks), "Avg"]).T
    calls = [
        [label, key, tool, *(fixed(count[kind], 4) for kind in (tool, f"{tool}_executed"))]
        for (label, key), count in counts.items()
        for tool in TOOLS
    ]
    table = Table(
        "Accuracy (×100) and tool calls per question",
        columns,
        body,
        notes=[metric_note(benchmarks), "Calls: tool tags written per question, executed or not."],
        bold={(row, column + 1) for row, column in leaders(accuracies, axis=1)},
        rule_before={len(benchmarks)},
    )
    return {
        "": table,
        "detail": detail(name, result, rows, benchmarks),
        "calls": Table("Tool calls per question", ["model", "benchmark", "tool", "written", "executed"], calls),
    }


def _tool_counts(inputs: Inputs, models: Sequence[str], benchmark: str) -> dict[str, float]:
    """Mean calls per trajectory: tags in model text, and executed calls (`*_executed`)."""
    traces = [trace for model in models for trace in inputs.traces(model, benchmark)]
    tags = [[action for action in actions(segments_of(trace)) if action in TOOLS] for trace in traces]
    counts = {tool: float(np.mean([of_trace.count(tool) for of_trace in tags])) for tool in TOOLS}
    return counts | {f"{tool}_executed": float(np.mean([trace[f"n_{tool}"] for trace in traces])) for tool in TOOLS}
