"""Accuracy of a judge on a small set of answers with known verdicts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import binomtest

from tir.scoring.judge.client import JudgeClient
from tir.scoring.judge.prompt import messages

_WORDS = {True: "called correct", False: "called incorrect", None: "unreadable"}


@cache
def calibration_set() -> list[dict[str, Any]]:
    """Rows {question, gold, output, verdict}."""
    return yaml.safe_load(Path(__file__).with_name("calibration.yaml").read_text(encoding="utf-8"))


def calibrate(client: JudgeClient) -> dict[str, Any]:
    """Judge the calibration set.

    Returns n, right, unreadable (numbers of rows), lo, hi (Wilson's 95 % interval of right / n), wrong (one line for
    each row with a wrong verdict).
    """
    rows = calibration_set()
    verdicts = [
        each.verdict for each in client.ask(messages(row["question"], [row["gold"]], row["output"]) for row in rows)
    ]
    wrong = [
        f"{row['output']!r} for {row['gold']!r}: {_WORDS[verdict]}"
        for verdict, row in zip(verdicts, rows, strict=True)
        if verdict is not row["verdict"]
    ]
    right = len(rows) - len(wrong)
    lo, hi = binomtest(right, len(rows)).proportion_ci(method="wilson")
    return {
        "n": len(rows),
        "right": right,
        "unreadable": verdicts.count(None),
        "lo": round(float(lo), 3),
        "hi": round(float(hi), 3),
        "wrong": wrong,
    }
