"""Reader of SFT rows in Alpaca format, a JSON list or JSON Lines; checks every row."""

from __future__ import annotations

from pathlib import Path

from tir.common.errors import DataError
from tir.common.unicode import replace_surrogates_in_json
from tir.data.text import read_rows

FIELDS = ("instruction", "input", "output")


def read_alpaca(path: str | Path, max_rows: int | None = None) -> list[dict]:
    """Rows of an Alpaca file; raises `DataError` with the number (from 0) of the first row that lacks a text."""
    rows = read_rows(path)
    if not rows:
        raise DataError("not a list of rows", where=str(path), why="the list is empty")
    for number, row in enumerate(rows):
        texts = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in FIELDS)
        if not texts or not row["output"].strip() or not (row["instruction"] + row["input"]).strip():
            raise DataError(
                "not an Alpaca row",
                where=f"{path}: row {number}",
                why=f"{str(row)[:80]}",
                remedy=f"give each row the text fields {', '.join(FIELDS)}; neither output nor both others blank",
            )
    return replace_surrogates_in_json(rows[:max_rows])
