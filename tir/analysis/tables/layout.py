"""A table as data: its cells, notes and print attributes. `tir.analysis.tables.files` writes it to files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """Columns and rows, ready to print. A cell is text, or a number that is printed without rounding.

    Attributes:
        caption: the table's title.
        columns: column titles.
        rows: one list of cells per row.
        notes: sentences below the table.
        bold: (row, column) positions of bold cells.
        rule_before: rows with a horizontal line above (averages).
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    bold: set[tuple[int, int]] = field(default_factory=set)
    rule_before: set[int] = field(default_factory=set)

    def is_text(self, column: int) -> bool:
        """Whether a column contains text and is printed flush left."""
        return column == 0 or any(not _is_number(row[column]) for row in self.rows)


def shown(cell: Any) -> str:
    """A cell as text; "" for None."""
    return "" if cell is None else str(cell)


def _is_number(cell: Any) -> bool:
    text = shown(cell).replace(",", "").lstrip("+-−")
    return not text or text.replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).isdigit()
