"""Table of the judge's work: answers settled by rules, agreement of judge and rules, result of the calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.common.records import read_json

COLUMNS = [
    "model",
    "benchmark",
    "items",
    "settled_by_rules",
    "asked",
    "agree_with_rules",
    "judge_alone",
    "rules_alone",
    "unreadable",
    "calibration",
]


def judgements(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """One row per judged file; input `data`: `judge/{model}/{benchmark}.jsonl.report.json`.

    Params: judge: the served model's name; decides: whether its verdicts decide correctness.
    """
    body, wrong = [], []
    for path in map(Path, inputs.data):
        report = read_json(path)
        agreement, calibration = report.get("agreement", {}), report.get("calibration", {})
        calibrated = f"{calibration['right']} of {calibration['n']}" if calibration else ""
        wrong += calibration.get("wrong", [])
        agree = f"{agreement['agree']} of {agreement['n']}" if agreement else ""
        body.append(
            [
                path.parent.name,
                path.name.partition(".")[0],
                report["items"],
                report["settled_by_rules"],
                report["asked"],
                agree,
                *(agreement.get(key, "") for key in ("judge_only", "rules_only", "unreadable")),
                calibrated,
            ]
        )
    decides = "Its verdicts decide." if params["decides"] else "Its verdicts are stored; the rules decide."
    notes = [
        f"Judge: {params['judge']} ({report['judge']}). {decides}"
        if body
        else "No judge was configured; the rules decide."
    ]
    if wrong:
        notes.append(f"Calibration answers that the judge got wrong: {'; '.join(dict.fromkeys(wrong))}.")
    return {"": Table("Verdicts of the judge and the rules", COLUMNS, body, notes=notes)}
