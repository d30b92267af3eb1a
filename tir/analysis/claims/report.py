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
    HOLDS,
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
    """One record per claim: its text, the stated number, the measured number, the verdict.

    Params: see `Run`; and origin, for a generated run: it does not measure claims about real things.
    """
    generated = params.get("origin", {}).get("data")
    run = Run(inputs, claims(), **{key: value for key, value in params.items() if key != "origin"})
    records = []
    for claim in claims():
        if generated and "real" in claim:
            finding = Finding(f"{UNMEASURED} ({generated})", why=f"the claim is about {claim['real']}")
        else:
            try:
                finding = require_seeds(EVALUATORS[claim["kind"]](claim, run), run.trained_once(claim))
            except NotMeasured as error:
                finding = Finding(UNMEASURED, why=str(error))
        record = {key: claim.get(key) for key in ("id", "section", "says")} | finding.as_json()
        if generated:
            del record["stated_inside"]
        else:
            record |= {"stated": claim.get("stated"), "paper_cells_give": claim.get("cells")}
        records.append(record)
    return records


def table(records: list[dict[str, Any]], generated: str = "") -> Table:
    """The records as a table for readers; `generated`: label of a generated run, whose records have no `stated`."""
    counts = Counter(record["verdict"] for record in records)
    columns = {
        "claim": lambda record: record["says"],
        "section": lambda record: record["section"],
        "stated": lambda record: _shown(record["stated"]),
        "measured": lambda record: _shown(record["measured"]),
        "interval": lambda record: "" if record["lo"] is None else f"{_shown(record['lo'])} to {_shown(record['hi'])}",
        "stated inside": lambda record: {None: "", True: "yes", False: "no"}[record["stated_inside"]],
        "n": lambda record: record["n"],
        "verdict": lambda record: record["verdict"],
        "why": lambda record: record["why"],
    }
    notes = [
        ", ".join(f"{count} {word}" for word, count in counts.most_common()) + ".",
        "A claim of a difference or a factor holds if its direction holds.",
        "Intervals are 95 %. A difference needs p < 0.05 after Holm's correction over the claims on its column.",
    ]
    if generated:
        columns = {title: cell for title, cell in columns.items() if not title.startswith("stated")}
        notes.append("Claims about real data, real models or the paper's scale are not measured here.")
    else:
        outside = sum(record["verdict"] == HOLDS and record["stated_inside"] is False for record in records)
        notes[1] += (
            f" `stated inside` says whether the interval contains the stated number; it does not for {outside} of the "
            "claims that hold."
        )
    return Table(
        f"The paper's claims, recomputed{f' ({generated})' if generated else ''}",
        list(columns),
        [[cell(record) for cell in columns.values()] for record in records],
        notes=notes,
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_shown(each) for each in value)
    return "" if value is None else significant(value, 4)
