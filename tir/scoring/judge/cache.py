"""A SQLite cache of verdicts, keyed by request and model, so that no request is sent twice.

It stores only verdicts, never failures. Several jobs can share the file: each verdict is one short transaction.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tir.common.errors import JudgeUnavailable
from tir.common.records import digest
from tir.common.sqlite_file import SqliteFile

_SCHEMA = """CREATE TABLE IF NOT EXISTS verdicts (
  key TEXT PRIMARY KEY, verdict INTEGER NOT NULL CHECK (verdict IN (0, 1)), reply TEXT NOT NULL,
  attempts INTEGER NOT NULL, model TEXT NOT NULL)"""


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict (None if its replies were unreadable), its last reply, and the number of requests made."""

    verdict: bool | None
    reply: str
    attempts: int


class VerdictCache:
    """A persistent dictionary from requests to verdicts.

    Args:
        path: SQLite file, created if missing.
        model: JSON value that identifies the judge (name, revision, sampling); it is part of every key.

    Every method raises `DataError` if the file is damaged, `JudgeUnavailable` if it is locked, full or read-only.
    """

    def __init__(self, path: str | os.PathLike, model: Any):
        self._model = model
        self._file = SqliteFile(
            path,
            _SCHEMA,
            name="verdict cache",
            machine=JudgeUnavailable,
            remedy=f"mv {path} {path}.damaged  # then run again; the judge is asked again",
        )
        self.close = self._file.close

    def key(self, request: Any) -> str:
        """The key of a request."""
        return digest({"model": self._model, "request": request}, length=64)

    def get(self, request: Any) -> Verdict | None:
        """The stored verdict on a request, or None."""
        rows = self._file.execute("SELECT verdict, reply, attempts FROM verdicts WHERE key = ?", (self.key(request),))
        return Verdict(bool(rows[0][0]), rows[0][1], rows[0][2]) if rows else None

    def put(self, request: Any, verdict: Verdict) -> Verdict:
        """Store a verdict; returns the stored one, which is another job's if that was faster."""
        if verdict.verdict is None:
            raise ValueError("an unreadable reply must not be cached")
        self._file.execute(
            "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?)",
            (self.key(request), int(verdict.verdict), verdict.reply, verdict.attempts, str(self._model)),
        )
        return self.get(request) or verdict
