"""JSON Lines that an interrupted stage can continue.

A stage appends to `X.jsonl.partial`, and writes `X.jsonl` at the end, so `X.jsonl` is always complete. Records that are
in the partial file are never written again: a resume only cuts off a last line that a kill has left incomplete. The
first line is a digest of the stage's parameters and inputs. A partial file with another digest is moved aside, and is
continued when the stage runs with those parameters and inputs again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.files import open_alone, writing
from tir.common.records import digest, parse_row, write_jsonl


class ResumableWriter:
    """Append keyed records to `path.partial`; `finish` writes them to `path`. A context manager.

    Args:
        path: the final file.
        work: JSON value that identifies the work (parameters, digests of inputs). If a partial file of other work
            exists, it is renamed to `.partial.<digest>.stale`, and back when a writer of that work is made.
        key: names of the fields that identify a record.

    Attributes:
        done: records by key, including those of an interrupted run of the same work.

    Raises `OutputInUse` if another process writes the file, `DataError` with the numbers of damaged lines, or if the
    file cannot be written.
    """

    def __init__(self, path: str | os.PathLike, *, work: Any, key: tuple[str, ...]):
        self.path, self.key = Path(path), key
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.done: dict[tuple, dict] = {}
        self._header = json.dumps({"work": digest(work)}).encode() + b"\n"
        with writing(self.partial):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_alone(self.partial)
        try:
            with writing(self.partial):
                self._recover(*self._file)
        except BaseException:
            self.close()
            raise

    def _recover(self, header: bytes = b"", *lines: bytes) -> None:
        own = self._aside(self._header)
        if not self._header.startswith(header):
            os.replace(self.partial, self._aside(header))
            return self._reopen()
        if header != self._header and own.exists():
            os.replace(own, self.partial)
            return self._reopen()
        complete = [line for line in lines if line.endswith(b"\n")]
        damaged: dict[int, str] = {}
        for number, line in enumerate(complete, 2):
            try:
                row = parse_row(line, self.key)
                self.done[self._key(row)] = row
            except (ValueError, TypeError) as error:  # TypeError: a key is a list or an object
                damaged[number] = str(error)
        if damaged:
            raise self._damaged(damaged)
        if header == self._header:
            self._file.seek(len(header) + sum(map(len, complete)))
            self._file.truncate()
        else:  # new, or killed while its first line was written
            self._file.seek(0)
            self._file.truncate()
            self._write(self._header)

    def _aside(self, header: bytes) -> Path:
        """The name of the partial file with this first line while other work is done."""
        name = digest(header.decode(errors="replace"))
        return self.partial.with_name(f"{self.partial.name}.{name}.stale")

    def _reopen(self) -> None:
        """Continue with the file that is at the partial file's path after a rename."""
        self._file.close()
        self._file = open_alone(self.partial)
        self._recover(*self._file)

    def _damaged(self, lines: dict[int, str]) -> DataError:
        number, why = next(iter(lines.items()))
        return DataError(
            f"{len(lines)} damaged record{'s' * (len(lines) > 1)} of an interrupted run",
            where=f"{self.partial}:{number}",
            why=why,
            remedy=f"sed -i '{';'.join(f'{line}d' for line in lines)}' {self.partial}  "
            "# only these are made again; then run the same command",
        )

    def _key(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.key)

    def _write(self, line: bytes) -> None:
        with writing(self.partial):
            self._file.write(line)
            self._file.flush()

    def add(self, row: dict) -> None:
        """Append one record and flush the file."""
        self.done[self._key(row)] = row
        self._write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def finish(self, order: Iterable[tuple]) -> None:
        """Write the records to the final file, in the given order of keys, and delete the partial file."""
        write_jsonl(self.path, (self.done[key] for key in order))
        self.partial.unlink()
        self.close()

    def close(self) -> None:
        """Close the file, so that another process may continue it."""
        with writing(self.partial):
            self._file.close()

    def __enter__(self) -> ResumableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
