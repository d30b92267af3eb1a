"""The paper's printed values (`paper_reference.yaml`), shown beside the measured ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tir.analysis.numbers import points
from tir.analysis.tables.layout import Table

ONE_BENCHMARK = "GSM8K"  # the benchmark of Tables 11 and 12


@cache
def paper() -> dict[str, Any]:
    """The paper's values, by table and figure."""
    return yaml.safe_load(Path(__file__).with_name("paper_reference.yaml").read_text(encoding="utf-8"))


def models(table: str) -> dict[str, dict[str, float]]:
    """The paper's scores in an accuracy table: {model: {benchmark: score, ×100}}; a row's `paper` names the model.

    Table 1 has models as columns; Tables 11 and 12 print the probability of a correct answer on one benchmark.
    """
    content = paper().get(table, {})
    columns = content.get("columns", [])
    rows = {label: cells for label, cells in content.items() if label != "columns"}
    if table == "table1":
        places = {name.removeprefix("acc_"): place for place, name in enumerate(columns) if name.startswith("acc_")}
        return {model: {label: cells[place] for label, cells in rows.items()} for model, place in places.items()}
    if columns == ["P"]:
        return {label: {ONE_BENCHMARK: float(points(cells[0]))} for label, cells in rows.items()}
    return {label: dict(zip(columns, cells, strict=True)) for label, cells in rows.items()} if "Avg" in columns else {}


def published_cell(table: str, row: str | None, column: str) -> float | None:
    """A score of the paper, or None if the paper has no such cell; `row` is None for a row without `paper`."""
    return models(table).get(row, {}).get(column)


def paper_comparison(name: str, table: Table) -> Table | None:
    """Each cell of the paper's table with this run's value, empty if the row was not run; None if no such table."""
    content = paper().get(name)
    if content is None:
        return None
    titles = [column.casefold() for column in table.columns]
    this_run = {
        (str(row[0]).casefold(), title): cell
        for row in table.rows
        for title, cell in zip(titles[1:], row[1:], strict=True)
    }
    columns = content.get("columns", ["value"])
    rows = [
        [label, column, value, this_run.get((label.casefold(), column.casefold()), "")]
        for label, cells in content.items()
        if label != "columns"
        for column, value in zip(columns, cells if isinstance(cells, list) else [cells], strict=True)
        if value is not None
    ]
    return Table(
        "The paper's cells beside this run's (empty: this run has no such row)",
        ["row", "column", "paper", "this_run"],
        rows,
    )
