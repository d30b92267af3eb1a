"""An SQLite file for several threads and processes, with typed errors."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tir.common.errors import DataError, InfrastructureFault, TirError

# Errors that sqlite3 raises as OperationalError, as it does faults of the machine: another schema, invalid text.
_OF_THE_CONTENT = ("no such ", "Could not decode ")


class SqliteFile:
    """An open file; each statement is its own transaction.

    Args:
        path: the file.
        schema: statement that creates the table if it is missing; None: open an existing file read-only.
        name: name of the file in errors, e.g. "cassette".
        machine: type of the error if the machine is the cause: another process holds the lock for more than 30 s, the
            disk is full, the file may not be written.
        remedy: remedy of the `DataError` if the file is missing, damaged or not an SQLite file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        schema: str | None,
        *,
        name: str,
        machine: type[InfrastructureFault],
        remedy: str,
    ):
        self.path, self._name, self._machine, self._remedy = Path(path), name, machine, remedy
        self._lock = threading.Lock()
        address = f"{self.path.resolve().as_uri()}?mode={'rwc' if schema else 'ro'}"
        try:
            if schema:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=30, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from None
        self.execute(schema or "SELECT 1 FROM sqlite_master")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        """Execute one statement and return its rows."""
        try:
            with self._lock:
                return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _fault(self, error: Exception) -> TirError:
        details = {"where": str(self.path), "why": str(error)}
        # The text is compared because sqlite3 has error codes only from Python 3.11.
        damaged = not isinstance(error, OSError | sqlite3.OperationalError) or str(error).startswith(_OF_THE_CONTENT)
        if damaged:
            return DataError(f"cannot read or write the {self._name}", **details, remedy=self._remedy)
        if "locked" in str(error):
            remedy = f"fuser -v {self.path}  # lists the process that holds the lock; end it, then run this again"
            return self._machine(f"the {self._name} is locked", **details, remedy=remedy)
        remedy = (
            f"df -h {self.path.parent}; ls -ld {self.path.parent} {self.path}  # free space or fix permissions, then "
            "run the same command again; the file is not damaged"
        )
        return self._machine(f"the {self._name} cannot be used now", **details, remedy=remedy)
