"""The paper's own cells (`paper_reference.yaml`), to print beside measured ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tir.tables.layout import Table


@cache
def paper() -> dict[str, Any]:
    """Everything the paper prints, by table and figure."""
    return yaml.safe_load(Path(__file__).with_name("paper_reference.yaml").read_text(encoding="utf-8"))


def published_cell(table: str, row: str | None, column: str) -> float | None:
    """A cell of the paper, or None if the paper has no such cell (`row` is None where a row names no counterpart)."""
    content = paper().get(table, {})
    if row is None or row not in content or column not in content.get("columns", ()):
        return None
    return content[row][content["columns"].index(column)]


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
