"""Every claim judged, as records and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tir.claims.evaluators import EVALUATORS
from tir.claims.run import Run
from tir.claims.verdict import FAILS, HOLDS, UNCLEAR, UNMEASURED, of_training
from tir.errors import ConfigError
from tir.tables.inputs import Inputs
from tir.tables.layout import Table

FILE = Path(__file__).with_name("claims.yaml")


@cache
def claims() -> list[dict[str, Any]]:
    """All claims; `ConfigError` for one without a known kind, or two of one id."""
    found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for each in found:
        if each.get("kind") not in EVALUATORS:
            raise ConfigError("unknown kind of claim", where=f"{FILE.name}: {each.get('id')}",
                              why=f"{each.get('kind')!r} is none of {', '.join(EVALUATORS)}")
    double = [name for name, count in Counter(each["id"] for each in found).items() if count > 1]
    if double:
        raise ConfigError("two claims have one id", where=FILE.name, why=", ".join(double))
    return found


def check(inputs: Inputs, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per claim: what it says, what was stated, what was measured, the verdict. Params: see `Run`."""
    run = Run(inputs, claims(), **params)
    records = []
    for claim in claims():
        finding = of_training(EVALUATORS[claim["kind"]](claim, run), run.trained_once(claim)).as_json()
        told = {key: claim.get(key) for key in ("id", "section", "says", "stated")}
        records.append(told | {"paper_cells_give": claim.get("cells")} | finding)
    return records


def table(records: list[dict[str, Any]]) -> Table:
    """The records for reading."""
    counts = Counter(record["verdict"] for record in records)
    rows = [[record["says"], record["section"], _shown(record["stated"]), _shown(record["measured"]),
             "" if record["lo"] is None else f"{_shown(record['lo'])} to {_shown(record['hi'])}",
             {None: "", True: "yes", False: "no"}[record["stated_inside"]], record["n"],
             record["verdict"], record["why"]] for record in records]
    elsewhere = sum(record["verdict"] == HOLDS and record["stated_inside"] is False for record in records)
    return Table(
        "The paper's claims, recomputed",
        ["claim", "section", "stated", "measured", "interval", "stated inside", "n", "verdict", "why"],
        rows,
        notes=[", ".join(f"{counts[word]} {word}" for word in (HOLDS, FAILS, UNCLEAR, UNMEASURED)) + ".",
               "A difference or a factor holds if its direction does; whether the stated number does too is in `stated inside`: "
               f"the interval excludes it for {elsewhere} that hold.",
               "Intervals are 95 %. A difference needs p < 0.05 after Holm's correction over the claims on its column."],
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_shown(each) for each in value)
    return "" if value is None else f"{value:.4g}"
