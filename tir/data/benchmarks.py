"""The nine upstream test sets in one shape (upstream `evaluation/run.py: load_datas`).

Upstream names the question `question`, `problem` or `Question`; golds are strings, integers or lists; GSM8K hides its
gold behind `#### `. Here every item is {id, question, gold: [str, ...]}.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tir.errors import DataError
from tir.records import read_jsonl
from tir.surrogates import whole_text

_QUESTION_KEYS = ("question", "problem", "Question")


@dataclass(frozen=True)
class Item:
    """One test question and its accepted answers."""

    id: str
    question: str
    gold: list[str]


def load_items(path: str | os.PathLike, n: int | None = None) -> list[Item]:
    """The first `n` items of a test file, in file order; `DataError` names the row that has no question or answer."""
    rows = read_jsonl(path)
    if not rows:
        raise DataError("no items", where=str(path), why="the file is empty")
    return [_item(row, number, path) for number, row in enumerate(rows[:n])]


def _item(row: dict[str, Any], number: int, path: str | os.PathLike) -> Item:
    question = next((row[key] for key in _QUESTION_KEYS if row.get(key)), None)
    if not isinstance(question, str):
        raise DataError("an item has no question", where=f"{path}:{number + 1}", why=f"keys are {', '.join(row)}")
    answer = row.get("answer", row.get("Answer"))
    if answer is None or answer == []:
        raise DataError("an item has no answer", where=f"{path}:{number + 1}", why=f"keys are {', '.join(row)}")
    golds = answer if isinstance(answer, list) else [answer]
    for gold in golds:
        if not isinstance(gold, str | int | float) or isinstance(gold, bool):
            raise DataError("an answer is neither a text nor a number", where=f"{path}:{number + 1}", why=f"{answer!r}"[:80])
    # The row number leads: ids of upstream's files are missing, repeated or restart.
    return Item(f"{number}", whole_text(question), [whole_text(_gold(gold)) for gold in golds])


def _gold(answer: Any) -> str:
    text = str(answer)
    return text.rpartition("#### ")[2].replace(",", "").strip() if "#### " in text else text
