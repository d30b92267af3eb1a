"""The questions of data synthesis: rows in the format of RL training, with their gold answers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tir.common.errors import DataError
from tir.data.rl_rows import golds_of, read_rl_rows


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: number of its row, from 0.
        task: math or qa.
        question: its text.
        gold: accepted answers; empty if the row has none.
        source: the row's `data_source`.
    """

    id: str
    task: str
    question: str
    gold: list[str]
    source: str


def load_questions(path: str | os.PathLike, limit: int | None = None) -> list[Question]:
    """The first `limit` questions of a file. At most one row in a hundred may have a blank answer.

    Raises `DataError` with the key, the file and the row, e.g. if rows have no answers.
    """
    try:
        rows = read_rl_rows(path, limit)
    except DataError as error:
        raise DataError(
            "these questions cannot be used",
            where="config.yaml:synthesis.questions",
            why=f"{error.where}: {error.what}" + (f": {error.why}" if error.why else ""),
            remedy="synthesis: {questions: {kind: local, path: FILE}}  # each row with data_source, question, ability "
            "(math or qa) and reward_model.ground_truth, the right answer",
        ) from None
    return [_question(number, row) for number, row in enumerate(rows)]


def _question(number: int, row: dict) -> Question:
    golds = [gold for gold in golds_of(row) if gold.strip()]
    return Question(f"{number}", row["ability"], row["question"].strip(), golds, str(row["data_source"]))
