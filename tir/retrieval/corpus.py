"""A FlashRAG corpus on disk: JSON Lines `{"id", "contents"}`, read by row number without holding it in memory.

The row number is the vector's number; there is no other mapping (UPSTREAM.md 1.7). The 21 million rows of the paper's
corpus are 10-14 GB of text: they stay in the page cache, only their byte offsets (8 bytes a row) are in memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tir.data.corpus_rows import corpus_row
from tir.errors import DataError

_NAME_ONE = "name a JSON Lines file of {id, contents}"


@dataclass(frozen=True)
class CorpusScan:
    """What one pass over a corpus finds.

    Args:
        sha256: of the file's bytes.
        offsets: int64 (rows + 1), where each row starts; the last entry is the file's size.
    """

    sha256: str
    offsets: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1


def scan(corpus: str | os.PathLike) -> CorpusScan:
    """Digest a corpus and find its rows, in one pass and constant memory.

    Raises:
        DataError: unreadable, empty, or with a blank line (which would shift every later row number).
    """
    checksum, starts, position = hashlib.sha256(), [], 0
    offsets = []
    try:
        with open(corpus, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    raise DataError("blank line in a corpus", where=f"{corpus}:{number}",
                                    why="row numbers are vector numbers", remedy=f"sed -i '/^[[:space:]]*$/d' {corpus}")
                checksum.update(line)
                starts.append(position)
                position += len(line)
                if len(starts) == 1 << 20:  # a Python integer takes 32 bytes, a packed one 8
                    offsets.append(np.array(starts, dtype=np.int64))
                    starts = []
    except OSError as error:
        raise DataError("cannot read corpus", where=str(corpus), why=error.strerror or str(error), remedy=_NAME_ONE) from None
    if position == 0:
        raise DataError("empty corpus", where=str(corpus), remedy=_NAME_ONE)
    return CorpusScan(checksum.hexdigest(), np.concatenate([*offsets, np.array([*starts, position], dtype=np.int64)]))


class Corpus:
    """Random access to the rows of a corpus file through a memory map.

    Args:
        path: the corpus.
        offsets: as `scan` found them.
        shown_as: the name errors give, if not `path`.

    Raises:
        DataError: the file is missing or is not as long as the offsets say.
    """

    def __init__(self, path: str | os.PathLike, offsets: np.ndarray, shown_as: str | os.PathLike | None = None):
        self.path, self.offsets = Path(shown_as or path), offsets
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != int(offsets[-1]):
                    raise DataError("corpus changed", where=str(path), remedy="build the index again",
                                    why=f"{size} bytes, the index knows {int(offsets[-1])}")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError("cannot read corpus", where=str(path), why=str(error),
                            remedy="build the index again") from None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> tuple[str, str]:
        """`(id, contents)` of one row; raises `DataError` naming the line if it is not what a corpus holds."""
        line = self._bytes[self.offsets[number] : self.offsets[number + 1]]
        return corpus_row(line, f"{self.path}:{number + 1}")

    def contents(self, start: int, stop: int) -> Iterator[str]:
        """Contents of rows `start` to `stop` (exclusive)."""
        return (self.row(number)[1] for number in range(start, stop))
