"""How far a judge can be believed: its verdicts on a small set of answers that are beyond dispute."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import binomtest

from tir.judge.client import JudgeClient
from tir.judge.prompt import messages


_WORDS = {True: "called correct", False: "called incorrect", None: "unreadable"}


@cache
def calibration_set() -> list[dict[str, Any]]:
    """Rows {question, gold, output, verdict}."""
    return yaml.safe_load(Path(__file__).with_name("calibration.yaml").read_text(encoding="utf-8"))


def calibrate(client: JudgeClient) -> dict[str, Any]:
    """Judge the calibration set: n, right, unreadable, Wilson's 95 % interval, and the rows it got wrong."""
    rows = calibration_set()
    found = client.ask(messages(row["question"], [row["gold"]], row["output"]) for row in rows)
    right = sum(each.verdict is row["verdict"] for each, row in zip(found, rows, strict=True))
    lo, hi = binomtest(right, len(rows)).proportion_ci(method="wilson")
    wrong = [
        f"{row['output']!r} for {row['gold']!r}: {_WORDS[each.verdict]}"
        for each, row in zip(found, rows, strict=True)
        if each.verdict is not row["verdict"]
    ]
    return {"n": len(rows), "right": right, "unreadable": sum(each.verdict is None for each in found),
            "lo": round(float(lo), 3), "hi": round(float(hi), 3), "wrong": wrong}
