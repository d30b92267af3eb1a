"""Every row of an input, read as the stage that uses it reads it: what a GPU job would refuse is refused where it enters."""

from __future__ import annotations

import os
from collections.abc import Callable

from tir.data.alpaca import read_alpaca
from tir.data.benchmarks import load_items
from tir.data.corpus_rows import count_corpus_rows
from tir.data.rl_rows import read_rl_rows
from tir.errors import DataError

_COUNTS: dict[str, Callable[[str | os.PathLike], int]] = {
    "sft.json": lambda path: len(read_alpaca(path)),
    "corpus.jsonl": count_corpus_rows,
    "rl_train.parquet": lambda path: len(read_rl_rows(path)),
    "rl_validation.parquet": lambda path: len(read_rl_rows(path)),
}


def count_rows(path: str | os.PathLike, name: str, origin: str) -> int:
    """Rows of an input file, each of them checked.

    Args:
        path: where it lies for now.
        name: what it is, e.g. `rl_train.parquet`; any other than the four inputs is a benchmark.
        origin: where it came from: that is what is to be corrected, not the copy.

    Raises `DataError` naming the input and the line or row at fault.
    """
    try:
        return _COUNTS.get(name, lambda each: len(load_items(each)))(path)
    except DataError as error:
        where, why = (text.replace(str(path), name) for text in (error.where, error.why))
        raise DataError(error.what, where=where, why=why, remedy=f"correct {origin}, or its source in config.yaml") from None
