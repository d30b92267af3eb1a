"""The rows of a FlashRAG corpus, `{"id", "contents"}`, checked one by one."""

from __future__ import annotations

import json
import os

from tir.errors import DataError
from tir.surrogates import whole_text

EACH_LINE = 'each line: {"id": "0", "contents": "\\"Title\\"\\ntext"}'


def corpus_row(line: bytes, where: str) -> tuple[str, str]:
    """`(id, contents)` of one line; raises `DataError` if it is not what a corpus holds.

    Args:
        line: the line as the file has it.
        where: `file:line`, for the error.
    """
    try:
        row = json.loads(line)
        identifier, contents = row["id"], row["contents"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("not a corpus row", where=where, why=f"{type(error).__name__}: {error}", remedy=EACH_LINE) from None
    if not isinstance(contents, str):
        raise DataError("contents is not text", where=where, why=type(contents).__name__, remedy=EACH_LINE)
    return whole_text(str(identifier)), whole_text(contents)


def count_corpus_rows(path: str | os.PathLike) -> int:
    """Rows of a corpus, each of them checked: the paper's 21 million take a few minutes, less than the job that would fail."""
    count = 0
    with open(path, "rb") as file:
        for count, line in enumerate(file, 1):
            corpus_row(line, f"{path}:{count}")
    if not count:
        raise DataError("no rows", where=str(path), why="the file is empty")
    return count
