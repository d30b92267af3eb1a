"""Reader of benchmark files: nine upstream test sets in one format (upstream `evaluation/run.py: load_datas`).

Upstream names the question `question`, `problem` or `Question`. Gold answers are strings, integers or lists; in GSM8K
they follow `#### `. Here every item is {id, question, gold: [str, ...]}.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from tir.common.errors import DataError
from tir.common.unicode import replace_surrogates
from tir.data.text import read_rows

_QUESTION_KEYS = ("question", "problem", "Question")


@dataclass(frozen=True)
class Item:
    """One test question and its accepted answers."""

    id: str
    question: str
    gold: list[str]


def load_items(path: str | os.PathLike, n: int | None = None) -> list[Item]:
    """The first `n` items of a benchmark file, in order.

    Raises `DataError` with the row (from 0) of an item without question or answer.
    """
    rows = read_rows(path)
    if not rows:
        raise DataError("no items", where=str(path), why="the file is empty")
    return [_item(row, number, path) for number, row in enumerate(rows[:n])]


def _item(row: Any, number: int, path: str | os.PathLike) -> Item:
    where = f"{path}: row {number}"
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, why=f"{row!r}"[:80])
    question = next((row[key] for key in _QUESTION_KEYS if row.get(key)), None)
    if not isinstance(question, str) or not question.strip():
        raise DataError(
            "an item has no question",
            where=where,
            why=f"its keys are {', '.join(row)}; expected a text in one of {', '.join(_QUESTION_KEYS)}",
        )
    answer = row.get("answer", row.get("Answer"))
    if answer is None or answer == []:
        raise DataError(
            "an item has no answer",
            where=where,
            why=f"its keys are {', '.join(row)}; expected answer or Answer",
        )
    golds = answer if isinstance(answer, list) else [answer]
    for gold in golds:
        if not isinstance(gold, str | int | float) or isinstance(gold, bool):
            raise DataError("an answer is neither a text nor a number", where=where, why=f"{answer!r}"[:80])
        if not _gold_text(gold).strip() or isinstance(gold, float) and not math.isfinite(gold):
            raise DataError(
                "no answer can equal this one",
                where=where,
                why=f"the gold answer is {gold!r}" + (f", one of {answer!r}"[:80] if answer != gold else ""),
            )
    # The id is the row number: ids in upstream's files are missing or repeated.
    return Item(f"{number}", replace_surrogates(question), [replace_surrogates(_gold_text(gold)) for gold in golds])


def _gold_text(answer: Any) -> str:
    """The gold answer as text; for GSM8K the number after `#### `, without thousands separators."""
    text = str(answer)
    return text.rpartition("#### ")[2].replace(",", "").strip() if "#### " in text else text
