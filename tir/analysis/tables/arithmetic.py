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
    yield from _accuracy("table5")
    yield from _accuracy("table6")
    yield from _column_means()
    yield from _percentages()
    yield from _shares()
    yield from _pass_rates("table11")
    yield from _pass_rates("table12")


def _accuracy(table: str) -> Iterator[list[Any]]:
    for label, cells in _rows(table):
        for column, cell in zip(paper()[table]["columns"], cells, strict=True):
            if column in MATH:
                expected, holds = whole_number(cell, PAPER_N, 1)
                yield _check(table, label, f"{column}: EM × {PAPER_N} is whole", cell, expected, holds)
        yield _check(table, label, "Avg is the mean", cells[-1], *mean_of_cells(cells[:-1], cells[-1], 1))


def _column_means() -> Iterator[list[Any]]:
    content = dict(_rows("table1"))
    averages = content.pop("Avg")
    for position, column in enumerate(paper()["table1"]["columns"]):
        cells, average = [row[position] for row in content.values()], averages[position]
        found = mean_of_cells(cells, average, 1 if column.startswith("acc") else 2)
        yield _check("table1", "Avg", f"{column}: mean of the column", average, *found)


def _percentages() -> Iterator[list[Any]]:
    rows = _rows("table2")
    total = sum(count for _, (count, _) in rows)
    for label, (count, percent) in rows:
        share = points(count / total, 2)
        yield _check("table2", label, "percent of the total", percent, share, abs(float(share) - percent) < 0.0051)


def _shares() -> Iterator[list[Any]]:
    for label, row in _rows("table3"):
        share = row[0] / (row[0] + row[1])
        holds = abs(share - row[2]) <= 0.0005 + 1e-9
        yield _check("table3", label, "p is a share", row[2], fixed(share, 3), holds)


def _pass_rates(table: str) -> Iterator[list[Any]]:
    for label, row in _rows(table):
        expected, holds = whole_number(100 * row[0], PAPER_N, 1)
        yield _check(table, label, f"P × {PAPER_N} is whole", row[0], fixed(float(expected) / 100, 3), holds)


def _rows(table: str) -> list[tuple[str, Any]]:
    """Rows of a table of the paper, without its column names."""
    return [(label, row) for label, row in paper()[table].items() if label != "columns"]


def _check(table: str, row: str, check: str, printed: Any, expected: str, holds: bool) -> list[Any]:
    return ["paper", table, row, check, printed, expected, _yes_or_no(holds)]


def _yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"
