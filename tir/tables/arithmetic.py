"""Whether tables are possible: exact match times n is a whole number, and an average is the mean of its cells.

Checked for the tables of this run and for the paper's own (`paper_reference.yaml`), whose MATH500 cells of the RL rows
are no multiples of 1/30 and so cannot be exact match.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.errors import DataError
from tir.tables.inputs import Inputs
from tir.tables.layout import Table
from tir.tables.reference import paper

COLUMNS = ["source", "table", "row", "check", "printed", "expected", "holds"]
MATH = ("GSM8K", "MATH500", "AIME24", "AIME25")
PAPER_N = 30
_COUNTED = ("em", "acc", "math_equal", "judge", "correct")  # metrics that are right or wrong per answer


def arithmetic(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Input `data`: `{table}_detail.csv` and `{table}.csv` of accuracy tables. Params: none.

    Raises `DataError` if a table of this run fails: then a number in it does not come from its records.
    """
    ours = [row for path in map(Path, inputs.data) for row in (_ours(path))]
    broken = [row for row in ours if row[-1] == "no"]
    if broken:
        raise DataError("a table contradicts itself", where=f"{broken[0][1]}, {broken[0][2]}",
                        why=f"{broken[0][3]}: {broken[0][4]}, expected {broken[0][5]}")
    stated = list(_papers())
    failed = [f"{row[1]} {row[2]}, {row[3]}: {row[4]}" for row in stated if row[-1] == "no"]
    return {
        "": Table(
            "Arithmetic of the tables", COLUMNS, [*ours, *stated],
            notes=[f"This run: {len(ours)} checks, all hold.", f"The paper: {len(stated)} checks, {len(failed)} fail"
                   + (f" ({'; '.join(failed)})." if failed else ".")],
        )
    }


def whole_number(score: float, n: int, digits: int) -> tuple[str, bool]:
    """The nearest score that is a whole number of n answers, and whether it prints like `score` (both ×100)."""
    nearest = 100 * round(score * n / 100) / n
    return f"{nearest:.{digits}f}", abs(nearest - score) <= 0.5 * 10**-digits + 1e-9


def mean_of_cells(cells: Sequence[float], average: float, digits: int) -> tuple[str, bool]:
    """The mean of printed cells, and whether a printed average can be that of the unrounded ones."""
    mean = sum(cells) / len(cells)
    return f"{mean:.{digits + 1}f}", abs(mean - average) <= 10**-digits + 1e-9  # cells and average each round by half


def _ours(path: Path) -> Iterator[list[Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if path.stem.endswith("_detail"):
        for row in rows:
            counted = row["metric"] in _COUNTED and row["benchmark"] not in ("Avg", "math", "qa")
            if counted:
                answers = int(row["n"]) * int(row["seeds"]) * int(row["samples"])
                expected, holds = whole_number(float(row["score"]), answers, 4)
                check = f"{row['benchmark']}: {row['metric']} × {answers} is whole"
                yield ["this run", row["table"], row["model"], check, row["score"], expected, _word(holds)]
        return
    for row in rows:
        if "Avg" in row and "model" in row:
            cells = [float(value) for key, value in row.items() if key not in ("model", "Avg")]
            expected, holds = mean_of_cells(cells, float(row["Avg"]), 1)
            yield ["this run", path.stem, row["model"], "Avg is the mean", row["Avg"], expected, _word(holds)]


def _papers() -> Iterator[list[Any]]:
    for table in ("table5", "table6"):
        content = paper()[table]
        columns = content["columns"]
        for label, cells in content.items():
            if label == "columns":
                continue
            for column, cell in zip(columns, cells, strict=True):
                if column in MATH:
                    expected, holds = whole_number(cell, PAPER_N, 1)
                    yield ["paper", table, label, f"{column}: EM × {PAPER_N} is whole", cell, expected, _word(holds)]
            expected, holds = mean_of_cells(cells[:-1], cells[-1], 1)
            yield ["paper", table, label, "Avg is the mean", cells[-1], expected, _word(holds)]
    content = paper()["table1"]
    for position, column in enumerate(content["columns"]):
        cells = [row[position] for label, row in content.items() if label not in ("columns", "Avg")]
        digits = 1 if column.startswith("acc") else 2
        expected, holds = mean_of_cells(cells, content["Avg"][position], digits)
        yield ["paper", "table1", "Avg", f"{column}: mean of the column", content["Avg"][position], expected, _word(holds)]
    counts = {key: row for key, row in paper()["table2"].items() if key != "columns"}
    total = sum(count for count, _ in counts.values())
    for label, (count, percent) in counts.items():
        share = f"{100 * count / total:.2f}"
        yield ["paper", "table2", label, "percent of the total", percent, share, _word(abs(float(share) - percent) < 0.0051)]
    for label, row in paper()["table3"].items():
        if label != "columns":
            share = row[0] / (row[0] + row[1])
            yield ["paper", "table3", label, "p is a share", row[2], f"{share:.3f}", _word(abs(share - row[2]) <= 0.0005 + 1e-9)]
    for table in ("table11", "table12"):
        for label, row in paper()[table].items():
            if label != "columns":
                expected, holds = whole_number(100 * row[0], PAPER_N, 1)
                yield ["paper", table, label, f"P × {PAPER_N} is whole", row[0], f"{float(expected) / 100:.3f}", _word(holds)]


def _word(holds: bool) -> str:
    return "yes" if holds else "no"
