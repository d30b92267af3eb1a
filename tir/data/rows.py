"""Check every row of an input with its stage's reader, so that a bad row fails the fetch and not a later GPU job.

A file in another project's format is converted before (`tir.data.formats`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tir.common.errors import DataError
from tir.data.alpaca import read_alpaca
from tir.data.benchmarks import load_items
from tir.data.corpus_rows import count_corpus_rows
from tir.data.formats import convert
from tir.data.rl_rows import read_rl_rows

_COUNTS: dict[str, Callable[[str | os.PathLike], int]] = {
    "sft.json": lambda path: len(read_alpaca(path)),
    "corpus.jsonl": count_corpus_rows,
    "rl_train.parquet": lambda path: len(read_rl_rows(path)),
    "rl_validation.parquet": lambda path: len(read_rl_rows(path)),
}


def count_rows(path: str | os.PathLike, name: str, origin: str, form: str | None = None) -> int:
    """Check every row of an input file and return their number.

    Args:
        path: temporary path of the file.
        name: name of the input, e.g. `rl_train.parquet`; names other than the four above are benchmarks.
        origin: source of the file, which the error's remedy names.
        form: its format, if it is another project's; the file is then rewritten.

    Raises `DataError` with the input and the first invalid line or row.
    """
    try:
        convert(Path(path), name, form)
        return _COUNTS.get(name, lambda file: len(load_items(file)))(path)
    except DataError as error:
        where, why = (text.replace(str(path), name) for text in (error.where, error.why))
        raise DataError(
            error.what, where=where, why=why, remedy=f"correct {origin}, or name another source in config.yaml"
        ) from None
