"""The verdicts on all claims, as records and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tir.analysis.claims.evaluators import EVALUATORS
from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import (
    FAILS,
    HOLDS,
    UNCLEAR,
    UNMEASURED,
    Finding,
    NotMeasured,
    require_seeds,
)
from tir.analysis.numbers import significant
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.common.errors import ConfigError

FILE = Path(__file__).with_name("claims.yaml")


@cache
def claims() -> list[dict[str, Any]]:
    """All claims of `claims.yaml`. Raises `ConfigError` for an unknown kind or a repeated id."""
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for entry in entries:
        if entry.get("kind") not in EVALUATORS:
            raise ConfigError(
                "unknown kind of claim",
                where=f"{FILE.name}: {entry.get('id')}: kind",
                why=f"{entry.get('kind')!r} has no evaluator",
                remedy=f"use one of {', '.join(EVALUATORS)}",
            )
    repeated = [name for name, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if repeated:
        raise ConfigError(
            "two claims have the same id", where=FILE.name, why=", ".join(repeated), remedy="rename one of them"
        )
    return entries


def check(inputs: Inputs, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per claim: its text, the stated number, the measured number, the verdict. Params: see `Run`."""
    run = Run(inputs, claims(), **params)
    records = []
    for claim in claims():
        try:
            finding = require_seeds(EVALUATORS[claim["kind"]](claim, run), run.trained_once(claim))
        except NotMeasured as error:
            finding = Finding(UNMEASURED, why=str(error))
        stated = {key: claim.get(key) for key in ("id", "section", "says", "stated")}
        records.append(stated | {"paper_cells_give": claim.get("cells")} | finding.as_json())
    return records


def table(records: list[dict[str, Any]]) -> Table:
    """The records as a table for readers."""
    counts = Counter(record["verdict"] for record in records)
    rows = [
        [
            record["says"],
            record["section"],
            _shown(record["stated"]),
            _shown(record["measured"]),
            "" if record["lo"] is None else f"{_shown(record['lo'])} to {_shown(record['hi'])}",
            {None: "", True: "yes", False: "no"}[record["stated_inside"]],
            record["n"],
            record["verdict"],
            record["why"],
        ]
        for record in records
    ]
    outside = sum(record["verdict"] == HOLDS and record["stated_inside"] is False for record in records)
    return Table(
        "The paper's claims, recomputed",
        ["claim", "section", "stated", "measured", "interval", "stated inside", "n", "verdict", "why"],
        rows,
        notes=[
            ", ".join(f"{counts[word]} {word}" for word in (HOLDS, FAILS, UNCLEAR, UNMEASURED)) + ".",
            "A claim of a difference or a factor holds if its direction holds. `stated inside` says whether the "
            f"interval contains the stated number; it does not for {outside} of the claims that hold.",
            "Intervals are 95 %. A difference needs p < 0.05 after Holm's correction over the claims on its column.",
        ],
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_shown(each) for each in value)
    return "" if value is None else significant(value, 4)
