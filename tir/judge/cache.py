"""Verdicts remembered in SQLite, keyed by what was asked and of which model, so that nothing is asked twice.

Only verdicts are stored, never failures. Several jobs may share the file: each verdict is one short transaction.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir.errors import DataError
from tir.records import digest

_SCHEMA = """CREATE TABLE IF NOT EXISTS verdicts (
  key TEXT PRIMARY KEY, verdict INTEGER NOT NULL CHECK (verdict IN (0, 1)), reply TEXT NOT NULL,
  attempts INTEGER NOT NULL, model TEXT NOT NULL)"""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer: True, False, or None if no reply could be read; `attempts` requests were made for it."""

    verdict: bool | None
    reply: str
    attempts: int
    cached: bool = False


class VerdictCache:
    """A dictionary on disk, from request to verdict.

    Args:
        path: SQLite file, made if missing.
        model: JSON value that names the judge (name, revision, sampling); another one has other keys.
    """

    def __init__(self, path: str | os.PathLike, model: Any):
        self.path, self._model = Path(path), model
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise self._fault(error) from None

    def key(self, request: Any) -> str:
        """The key of a request."""
        return digest({"model": self._model, "request": request}, length=64)

    def get(self, request: Any) -> Verdict | None:
        """The verdict on a request, or None."""
        try:
            row = self._connection.execute(
                "SELECT verdict, reply, attempts FROM verdicts WHERE key = ?", (self.key(request),)
            ).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._fault(error) from None
        return Verdict(bool(row[0]), row[1], row[2], cached=True) if row else None

    def put(self, request: Any, found: Verdict) -> None:
        """Store a verdict; one that is None is refused."""
        if found.verdict is None:
            raise ValueError("a reply that is no verdict is never cached")
        try:
            self._connection.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)",
                (self.key(request), int(found.verdict), found.reply, found.attempts, str(self._model)),
            )
        except sqlite3.DatabaseError as error:
            raise self._fault(error) from None

    def close(self) -> None:
        self._connection.close()

    def _fault(self, error: Exception) -> DataError:
        return DataError("the verdict cache cannot be used", where=str(self.path), why=str(error),
                         remedy=f"rm {self.path}  # verdicts are then asked for again")
