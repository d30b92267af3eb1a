"""A corpus file in FlashRAG's format, JSON Lines `{"id", "contents"}`, read by row number through a memory map.

Row n of the corpus belongs to vector n of the index, as in FlashRAG. The paper's corpus has 21 million rows, 10-14 GB
of text; only the rows' byte offsets (8 bytes per row) are kept in memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tir.common.errors import DataError
from tir.data.corpus_rows import corpus_row

_REMEDY = "give a JSON Lines file with one {id, contents} object per line"


@dataclass(frozen=True)
class CorpusScan:
    """Checksum and row offsets of a corpus.

    Args:
        sha256: sha256 of the file.
        offsets: int64 (rows + 1), the byte offset of each row; the last entry is the size of the file.
    """

    sha256: str
    offsets: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1


def scan(corpus: str | os.PathLike) -> CorpusScan:
    """Compute the checksum and the row offsets of a corpus in one pass.

    Raises:
        DataError: the file is unreadable, empty, or has a blank line, which would shift all later row numbers.
    """
    checksum, starts, position = hashlib.sha256(), [], 0
    offsets = []
    try:
        with open(corpus, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    raise DataError(
                        "blank line in a corpus",
                        where=f"{corpus}:{number}",
                        why="line n belongs to vector n, so a blank line shifts all later rows",
                        remedy=f"sed -i '/^[[:space:]]*$/d' {corpus}",
                    )
                checksum.update(line)
                starts.append(position)
                position += len(line)
                if len(starts) == 1 << 20:  # pack into an array: 8 instead of 32 bytes per offset
                    offsets.append(np.array(starts, dtype=np.int64))
                    starts = []
    except OSError as error:
        raise DataError(
            "cannot read corpus", where=str(corpus), why=error.strerror or str(error), remedy=_REMEDY
        ) from None
    if position == 0:
        raise DataError("empty corpus", where=str(corpus), why="the file has no rows", remedy=_REMEDY)
    return CorpusScan(checksum.hexdigest(), np.concatenate([*offsets, np.array([*starts, position], dtype=np.int64)]))


class Corpus:
    """Random access to the rows of a corpus file through a memory map.

    Args:
        path: the corpus file.
        offsets: the offsets from `scan`.
        shown_as: path to show in errors instead of `path`.

    Raises:
        DataError: the file is missing, or its size differs from the last offset.
    """

    def __init__(self, path: str | os.PathLike, offsets: np.ndarray, shown_as: str | os.PathLike | None = None):
        self.path, self.offsets = Path(shown_as or path), offsets
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != int(offsets[-1]):
                    raise DataError(
                        "corpus changed",
                        where=str(path),
                        why=f"it has {size} bytes; the index was built from {int(offsets[-1])} bytes",
                        remedy="build the index again",
                    )
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(
                "cannot read corpus", where=str(path), why=str(error), remedy="build the index again"
            ) from None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> tuple[str, str]:
        """`(id, contents)` of one row; raises `DataError` with the line number if the row is invalid."""
        line = self._bytes[self.offsets[number] : self.offsets[number + 1]]
        return corpus_row(line, f"{self.path}:{number + 1}")

    def contents(self, start: int, stop: int) -> Iterator[str]:
        """Contents of rows `start` to `stop` - 1."""
        return (self.row(number)[1] for number in range(start, stop))
