"""Recorded answers of a web search, one SQLite file: what was once asked can be asked again without a network.

    answers(query, provider, parameters, answer, recorded)   primary key (query, provider, parameters)

The web changes, an account ends; a cassette is what makes a result on WebWalker repeatable. It holds answers in Bing's
shape and no key.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tir.errors import DataError
from tir.records import canonical_json
from tir.surrogates import whole_text
from tir.websearch.bing import WebSearch

_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
    query TEXT NOT NULL, provider TEXT NOT NULL, parameters TEXT NOT NULL, answer TEXT NOT NULL, recorded REAL NOT NULL,
    PRIMARY KEY (query, provider, parameters)) WITHOUT ROWID"""


class Cassette:
    """The file; usable from any thread, and by several processes at once.

    Args:
        path: the file.
        create: make it if it is absent, and allow recording; otherwise it is opened to be read only.

    Raises `DataError` if it is absent, not a cassette, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike, *, create: bool = False):
        self.path, self._lock = Path(path), threading.Lock()
        if create:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError("a cassette cannot be made here", where=str(path), why=str(error),
                                remedy="tools: {web_search: {cassette: data/web.sqlite}}") from None
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
            raise DataError("not a cassette", where=str(path), why=str(error),
                            remedy="tools: {web_search: {cassette: FILE}}  # that `mode: record` has written") from None

    def get(self, query: str, provider: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The recorded answer, or None."""
        with self._lock:
            row = self._file.execute("SELECT answer FROM answers WHERE query = ? AND provider = ? AND parameters = ?",
                                     (query, provider, canonical_json(dict(parameters)))).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, query: str, provider: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Record an answer; the first one stays if two are recorded."""
        with self._lock:
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
                               (query, provider, canonical_json(dict(parameters)), canonical_json(dict(answer)), time.time()))

    def __len__(self) -> int:
        with self._lock:
            return self._file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Cassette:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CassetteSearch:
    """Search by the cassette; what it lacks comes from the provider, if there is one, and is recorded.

    Queries are compared after their white space is collapsed. Two trajectories that ask the same thing at once make one
    request.
    """

    def __init__(self, cassette: Cassette, provider_name: str, parameters: Mapping[str, Any], provider: WebSearch | None = None):
        self.cassette, self.provider_name, self.parameters, self.provider = cassette, provider_name, parameters, provider
        self._asking: dict[str, asyncio.Task] = {}

    async def search(self, query: str) -> dict[str, Any]:
        """The answer. Raises `DataError` for a query that is not recorded and has no provider to go to."""
        query = whole_text(" ".join(query.split()))
        answer = self.cassette.get(query, self.provider_name, self.parameters)
        if answer is not None:
            return answer
        if self.provider is None:
            raise DataError("query not on the cassette", where=str(self.cassette.path),
                            why=f"{query[:200]!r} was never asked with {canonical_json(dict(self.parameters))}",
                            remedy="tools: {web_search: {mode: record}}  # asks the provider for what is missing")
        if query not in self._asking:
            self._asking[query] = asyncio.create_task(self._ask(query))
            self._asking[query].add_done_callback(lambda _: self._asking.pop(query, None))
        return await asyncio.shield(self._asking[query])

    async def _ask(self, query: str) -> dict[str, Any]:
        answer = await self.provider.search(query)
        self.cassette.put(query, self.provider_name, self.parameters, answer)
        return answer
