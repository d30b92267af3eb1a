"""Reader of the rows of a FlashRAG corpus, `{"id", "contents"}`; checks every row."""

from __future__ import annotations

import os

from tir.common.errors import DataError
from tir.common.records import parse_row
from tir.common.unicode import replace_surrogates

_EXPECTED_LINE = 'write each line as: {"id": "0", "contents": "\\"Title\\"\\ntext"}'


def corpus_row(line: bytes, where: str) -> tuple[str, str]:
    """`(id, contents)` of one line; raises `DataError` if the line is not a valid corpus row.

    Args:
        line: bytes of the line.
        where: `file:line`, for the error.
    """
    try:
        row = parse_row(line, ("id", "contents"))
    except ValueError as error:
        raise DataError("not a corpus row", where=where, why=str(error), remedy=_EXPECTED_LINE) from None
    name, contents = row["id"], row["contents"]
    if not isinstance(name, str | int | float) or isinstance(name, bool):
        raise DataError(
            "the id is neither a text nor a number", where=where, why=f"it is {name!r:.80}", remedy=_EXPECTED_LINE
        )
    if not isinstance(contents, str):
        raise DataError(
            "contents is not text", where=where, why=f"it is {type(contents).__name__}", remedy=_EXPECTED_LINE
        )
    return replace_surrogates(str(name)), replace_surrogates(contents)


def count_corpus_rows(path: str | os.PathLike) -> int:
    """Check every row of a corpus and return their number; the paper's 21 million rows take a few minutes."""
    count = 0
    with open(path, "rb") as file:
        for count, line in enumerate(file, 1):
            corpus_row(line, f"{path}:{count}")
    if not count:
        raise DataError("no rows", where=str(path), why="the file is empty")
    return count
