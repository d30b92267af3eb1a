"""The paper's own cells (`paper_reference.yaml`), to print beside measured ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml


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
