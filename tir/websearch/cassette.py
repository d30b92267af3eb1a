"""Recorded answers of a web search, one SQLite file: what was once asked can be asked again without a network.

    answers(query, provider, parameters, answer, recorded)   primary key (query, provider, parameters)

The web changes, an account ends; a cassette is what makes a result on WebWalker repeatable. It holds answers in Bing's
shape and no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tir.errors import DataError, SearchUnavailable, TirError
from tir.records import canonical_json
from tir.surrogates import whole_text
from tir.websearch.bing import WebSearch, pages

_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
    query TEXT NOT NULL, provider TEXT NOT NULL, parameters TEXT NOT NULL, answer TEXT NOT NULL, recorded REAL NOT NULL,
    PRIMARY KEY (query, provider, parameters)) WITHOUT ROWID"""


class Cassette:
    """The file; usable from any thread, and by several processes at once.

    Args:
        path: the file.
        create: make it if it is absent, and allow recording; otherwise it is opened to be read only.

    Raises `DataError` if it is absent, not a cassette, damaged, or cannot be made; `SearchUnavailable` if another process
    has locked it for more than half a minute.
    """

    def __init__(self, path: str | os.PathLike, *, create: bool = False):
        self.path, self._lock = Path(path), threading.Lock()
        if create:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError("a cassette cannot be made here", where=str(path), why=str(error),
                                remedy="tools: {web_search: {cassette: cache/web.sqlite}}") from None
        elif not self.path.is_file():
            raise DataError("no cassette to replay", where=str(path),
                            remedy="tools: {web_search: {mode: record}}  # once, with a key; or put the file there")
        address = f"{self.path.resolve().as_uri()}?mode={'rwc' if create else 'ro'}"
        try:
            self._file = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=30, isolation_level=None)
            if create:
                self._file.execute(_SCHEMA)
            self._file.execute("SELECT query, provider, parameters, answer FROM answers LIMIT 1")
        except sqlite3.Error as error:
            raise self._fault("not a cassette", error) from None

    def get(self, query: str, provider: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The recorded answer, or None."""
        with self._lock, self._typed():
            row = self._file.execute("SELECT answer FROM answers WHERE query = ? AND provider = ? AND parameters = ?",
                                     (query, provider, canonical_json(dict(parameters)))).fetchone()
        if row is None:
            return None
        try:
            answer = json.loads(row[0])
            pages(answer)
            return answer
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError("damaged answer on the cassette", where=str(self.path),
                            why=f"{query[:200]!r}: {type(error).__name__}: {error}",
                            remedy=f"sqlite3 {self.path} 'DELETE FROM answers WHERE query = ...'; then mode: record") from None

    def put(self, query: str, provider: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Record an answer; the first one stays if two are recorded."""
        with self._lock, self._typed():
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
                               (query, provider, canonical_json(dict(parameters)), canonical_json(dict(answer)), time.time()))

    def __len__(self) -> int:
        with self._lock, self._typed():
            return self._file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._fault("cannot use the cassette", error) from None

    def _fault(self, what: str, error: sqlite3.Error) -> TirError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return SearchUnavailable("the cassette is locked", where=str(self.path), why=str(error),
                                     remedy="end the process that holds it (`fuser -v FILE`), then run the same command again")
        return DataError(what, where=str(self.path), why=str(error),
                         remedy="tools: {web_search: {cassette: FILE}}  # that `mode: record` has written")

    def __enter__(self) -> Cassette:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CassetteSearch:
    """Search by the cassette; what it lacks comes from the provider, if there is one, and is recorded.

    Queries are compared after their white space is collapsed. Two trajectories that ask the same thing at once make one
    request. The file is read and written on a thread of its own: another process may hold its lock for long.
    """

    def __init__(self, cassette: Cassette, provider_name: str, parameters: Mapping[str, Any], provider: WebSearch | None = None):
        self.cassette, self.provider_name, self.parameters, self.provider = cassette, provider_name, parameters, provider
        self._asking: dict[str, asyncio.Task] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cassette")

    async def search(self, query: str) -> dict[str, Any]:
        """The answer. Raises `DataError` for a query that is not recorded and has no provider to go to."""
        query = whole_text(" ".join(query.split()))
        if query not in self._asking:
            self._asking[query] = asyncio.create_task(self._ask(query))
            self._asking[query].add_done_callback(lambda _: self._asking.pop(query, None))
        return await asyncio.shield(self._asking[query])

    async def _ask(self, query: str) -> dict[str, Any]:
        """Look up, ask and record in one task: a query that waits for its answer finds the task, never a gap in between."""
        on_thread = asyncio.get_running_loop().run_in_executor
        answer = await on_thread(self._thread, self.cassette.get, query, self.provider_name, self.parameters)
        if answer is not None:
            return answer
        if self.provider is None:
            raise DataError("query not on the cassette", where=str(self.cassette.path),
                            why=f"{query[:200]!r} was never asked with {canonical_json(dict(self.parameters))}",
                            remedy="tools: {web_search: {mode: record}}  # asks the provider for what is missing")
        answer = await self.provider.search(query)
        await on_thread(self._thread, self.cassette.put, query, self.provider_name, self.parameters, answer)
        return answer
