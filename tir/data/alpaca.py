"""SFT rows in the Alpaca fields, checked one by one."""

from __future__ import annotations

from pathlib import Path

from tir.errors import DataError
from tir.records import read_json
from tir.surrogates import whole_json

FIELDS = ("instruction", "input", "output")


def read_alpaca(path: str | Path, max_rows: int | None = None) -> list[dict]:
    """Rows of an Alpaca JSON file; raises `DataError` naming the first row (from 0) without its three text fields."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError("not a list of rows", where=str(path), why="the list is empty" if rows == [] else f"it holds a {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS) or not row["output"]:
            raise DataError("not an Alpaca row", where=f"{path}: row {number}", why=f"{str(row)[:80]}",
                            remedy=f"each row needs the texts {', '.join(FIELDS)}")
    return whole_json(rows[:max_rows])
