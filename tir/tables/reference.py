"""The paper's own cells (`paper_reference.yaml`), to print beside measured ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tir.tables.layout import Table


ONE_BENCHMARK = "GSM8K"  # what Tables 11 and 12 are about


@cache
def paper() -> dict[str, Any]:
    """Everything the paper prints, by table and figure."""
    return yaml.safe_load(Path(__file__).with_name("paper_reference.yaml").read_text(encoding="utf-8"))


def models(table: str) -> dict[str, dict[str, float]]:
    """The paper's models in an accuracy table, by the name a row's `paper` gives them: {benchmark: score, ×100}.

    Table 1 has models as columns; Tables 11 and 12 print the probability of a correct answer on one benchmark.
    """
    content = paper().get(table, {})
    columns = content.get("columns", [])
    rows = {label: cells for label, cells in content.items() if label != "columns"}
    if table == "table1":
        places = {name.removeprefix("acc_"): place for place, name in enumerate(columns) if name.startswith("acc_")}
        return {model: {label: cells[place] for label, cells in rows.items()} for model, place in places.items()}
    if columns == ["P"]:
        return {label: {ONE_BENCHMARK: round(100 * cells[0], 1)} for label, cells in rows.items()}
    return {label: dict(zip(columns, cells, strict=True)) for label, cells in rows.items()} if "Avg" in columns else {}


def published_cell(table: str, row: str | None, column: str) -> float | None:
    """A score of the paper, or None if it has no such cell (`row` is None where a row names no counterpart)."""
    return models(table).get(row, {}).get(column)


def beside(name: str, table: Table) -> Table | None:
    """Every cell that the paper prints in a table, and ours where this run has that row; None for a table it lacks."""
    content = paper().get(name)
    if content is None:
        return None
    titles = [column.casefold() for column in table.columns]
    ours = {
        (str(row[0]).casefold(), title): cell
        for row in table.rows
        for title, cell in zip(titles[1:], row[1:], strict=True)
    }
    columns = content.get("columns", ["value"])
    rows = [
        [label, column, value, ours.get((label.casefold(), column.casefold()), "")]
        for label, cells in content.items()
        if label != "columns"
        for column, value in zip(columns, cells if isinstance(cells, list) else [cells], strict=True)
        if value is not None
    ]
    return Table(
        "What the paper prints, and this run where it has that row", ["row", "column", "paper", "this_run"], rows
    )
