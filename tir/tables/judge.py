"""What the judge did: how much the rules settled, how far the two agree, and how the calibration went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tir.records import read_json
from tir.tables.inputs import Inputs
from tir.tables.layout import Table

COLUMNS = ["model", "benchmark", "items", "settled_by_rules", "asked", "cached", "calls", "agree_with_rules", "judge_alone",
           "rules_alone", "unreadable", "calibration"]


def judgements(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Input `data`: `judge/{model}/{benchmark}.jsonl.report.json`. Params: judge: its served name; decides."""
    body, wrong = [], []
    for path in map(Path, inputs.data):
        report = read_json(path)
        agreement, calibration = report.get("agreement", {}), report.get("calibration", {})
        shown = f"{calibration['right']} of {calibration['n']}" if calibration else ""
        wrong += calibration.get("wrong", [])
        agree = f"{agreement['agree']} of {agreement['n']}" if agreement else ""
        body.append([path.parent.name, path.name.partition(".")[0], report["items"], report["settled_by_rules"],
                     report["asked"], report["cached"], report["calls"], agree,
                     *(agreement.get(key, "") for key in ("judge_only", "rules_only", "unreadable")), shown])
    decides = "Its verdicts decide." if params["decides"] else "Its verdicts are stored; the rules decide."
    notes = [f"Judge: {params['judge']} ({report['judge']}). {decides}" if body else "Nobody was asked: rules only."]
    if wrong:
        notes.append(f"Calibration answers it got wrong: {'; '.join(dict.fromkeys(wrong))}.")
    return {"": Table("The judge beside the rules", COLUMNS, body, notes=notes)}
