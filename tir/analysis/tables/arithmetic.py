"""Consistency of printed tables: exact match times n is a whole number, and an average is the mean of its cells.

Checks the tables of this run and those of the paper (`paper_reference.yaml`). The paper's MATH500 cells of the RL rows
are not multiples of 1/30, so they cannot be exact match.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.analysis.numbers import fixed, points
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.analysis.tables.reference import paper
from tir.common.errors import DataError

COLUMNS = ["source", "table", "row", "check", "printed", "expected", "holds"]
MATH = ("GSM8K", "MATH500", "AIME24", "AIME25")
PAPER_N = 30
_COUNTED = ("em", "acc", "math_equal", "judge", "correct")  # metrics that are 0 or 1 for each answer


def arithmetic(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Input `data`: `{table}_detail.csv` and `{table}.csv` of accuracy tables. Params: origin, for a generated run,
    whose table does not have the paper's numbers.

    Raises `DataError` if a table of this run fails: a number in it was not computed from its records.
    """
    this_run = [row for path in map(Path, inputs.data) for row in _checks_of_file(path)]
    failures = [row for row in this_run if row[-1] == "no"]
    if failures:
        _, table, row, check, printed, expected, _ = failures[0]
        raise DataError(
            "a number in a table does not follow from the records",
            where=f"{table}: {row}",
            why=f"{check}: printed {printed}, expected {expected}",
            remedy=f"rm results/{table}.csv results/{table}_detail.csv  # then run again",
        )
    notes = [f"This run: {len(this_run)} checks, all hold."]
    if params.get("origin"):
        return {"": Table("Arithmetic of the tables", COLUMNS, this_run, notes)}
    paper_checks = list(_checks_of_paper())
    failed = [f"{row[1]} {row[2]}, {row[3]}: {row[4]}" for row in paper_checks if row[-1] == "no"]
    return {
        "": Table(
            "Arithmetic of the tables",
            COLUMNS,
            [*this_run, *paper_checks],
            notes=[
                *notes,
                f"The paper: {len(paper_checks)} checks, {len(failed)} fail"
                + (f" ({'; '.join(failed)})." if failed else "."),
            ],
        )
    }


def whole_number(score: float, n: int, digits: int) -> tuple[str, bool]:
    """The nearest score that is a multiple of 100 / n, as text, and whether it rounds to `score` (both ×100)."""
    nearest = 100 * round(score * n / 100) / n
    return fixed(nearest, digits), abs(nearest - score) <= 0.5 * 10**-digits + 1e-9


def mean_of_cells(cells: Sequence[float], average: float, digits: int) -> tuple[str, bool]:
    """The mean of printed cells, as text, and whether a printed average can be the mean of the unrounded cells."""
    mean = sum(cells) / len(cells)
    # Rounding moves the cells, and the average, by up to half a unit each.
    return fixed(mean, digits + 1), abs(mean - average) <= 10**-digits + 1e-9


def _checks_of_file(path: Path) -> Iterator[list[Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if path.stem.endswith("_detail"):
        for row in rows:
            if row["metric"] in _COUNTED and row["benchmark"] not in ("Avg", "math", "qa"):
                answers = int(row["n"]) * int(row["seeds"]) * int(row["samples"])
                expected, holds = whole_number(float(row["score"]), answers, 4)
                check = f"{row['benchmark']}: {row['metric']} × {answers} is whole"
                yield ["this run", row["table"], row["model"], check, row["score"], expected, _yes_or_no(holds)]
        return
    for row in rows:
        if "Avg" in row and "model" in row:
            cells = [float(value) for key, value in row.items() if key not in ("model", "Avg")]
            expected, holds = mean_of_cells(cells, float(row["Avg"]), 1)
            yield ["this run", path.stem, row["model"], "Avg is the mean", row["Avg"], expected, _yes_or_no(holds)]


def _checks_of_paper() -> Iterator[list[Any]]:
    for table in ("table5", "table6"):
        content = paper()[table]
        columns = content["columns"]
        for label, cells in content.items():
            if label == "columns":
                continue
            for column, cell in zip(columns, cells, strict=True):
                if column in MATH:
                    expected, holds = whole_number(cell, PAPER_N, 1)
                    yield [
                        "paper",
                        table,
                        label,
                        f"{column}: EM × {PAPER_N} is whole",
                        cell,
                        expected,
                        _yes_or_no(holds),
                    ]
            expected, holds = mean_of_cells(cells[:-1], cells[-1], 1)
            yield ["paper", table, label, "Avg is the mean", cells[-1], expected, _yes_or_no(holds)]
    content = paper()["table1"]
    for position, column in enumerate(content["columns"]):
        cells = [row[position] for label, row in content.items() if label not in ("columns", "Avg")]
        digits = 1 if column.startswith("acc") else 2
        expected, holds = mean_of_cells(cells, content["Avg"][position], digits)
        yield [
            "paper",
            "table1",
            "Avg",
            f"{column}: mean of the column",
            content["Avg"][position],
            expected,
            _yes_or_no(holds),
        ]
    counts = {key: row for key, row in paper()["table2"].items() if key != "columns"}
    total = sum(count for count, _ in counts.values())
    for label, (count, percent) in counts.items():
        share = points(count / total, 2)
        yield [
            "paper",
            "table2",
            label,
            "percent of the total",
            percent,
            share,
            _yes_or_no(abs(float(share) - percent) < 0.0051),
        ]
    for label, row in paper()["table3"].items():
        if label != "columns":
            share = row[0] / (row[0] + row[1])
            yield [
                "paper",
                "table3",
                label,
                "p is a share",
                row[2],
                fixed(share, 3),
                _yes_or_no(abs(share - row[2]) <= 0.0005 + 1e-9),
            ]
    for table in ("table11", "table12"):
        for label, row in paper()[table].items():
            if label != "columns":
                expected, holds = whole_number(100 * row[0], PAPER_N, 1)
                yield [
                    "paper",
                    table,
                    label,
                    f"P × {PAPER_N} is whole",
                    row[0],
                    fixed(float(expected) / 100, 3),
                    _yes_or_no(holds),
                ]


def _yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"
