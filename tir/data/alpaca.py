"""Reader and writer of SFT rows in Alpaca format, a JSON list or JSON Lines; the reader checks every row."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tir.common.errors import DataError
from tir.common.files import atomic_path
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


def write_alpaca(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Write rows as a JSON list, one field per line."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
