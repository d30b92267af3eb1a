"""A cassette: recorded web search answers in one SQLite file, so that results can be repeated without a network.

    answers(query, provider, parameters, answer, recorded)   primary key (query, provider, parameters)

The web changes and accounts expire; the cassette makes WebWalker results repeatable. It stores answers in Bing's format
and never the provider's key.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tir.common.errors import DataError, SearchUnavailable
from tir.common.records import canonical_json
from tir.common.sqlite_file import SqliteFile
from tir.common.unicode import replace_surrogates
from tir.tools.websearch.bing import WebSearch, pages

_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
    query TEXT NOT NULL, provider TEXT NOT NULL, parameters TEXT NOT NULL, answer TEXT NOT NULL, recorded REAL NOT NULL,
    PRIMARY KEY (query, provider, parameters)) WITHOUT ROWID"""


class Cassette:
    """An open cassette; threads and processes may share the file.

    Args:
        path: the SQLite file.
        create: create the file if it is missing, and allow recording; otherwise open it read-only.

    Raises `DataError` if the file is missing, damaged or not a cassette; `SearchUnavailable` if it cannot be created,
    is read-only or full, or if another process holds its lock for more than 30 s.
    """

    def __init__(self, path: str | os.PathLike, *, create: bool = False):
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise DataError(
                "no cassette to replay",
                where=str(path),
                why="tools.web_search.mode is replay, which needs this file",
                remedy="tools: {web_search: {mode: record}}  # records it once, with a key; or copy a cassette there",
            )
        self._file = SqliteFile(
            path,
            _SCHEMA if create else None,
            name="cassette",
            machine=SearchUnavailable,
            remedy="tools: {web_search: {cassette: FILE}}  # a file recorded with `mode: record`",
        )
        self._file.execute("SELECT query, provider, parameters, answer FROM answers LIMIT 1")
        self.close = self._file.close

    def get(self, query: str, provider: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The recorded answer, or None."""
        rows = self._file.execute(
            "SELECT answer FROM answers WHERE query = ? AND provider = ? AND parameters = ?",
            (query, provider, canonical_json(dict(parameters))),
        )
        if not rows:
            return None
        try:
            answer = json.loads(rows[0][0])
            pages(answer)
            return answer
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                "damaged answer in the cassette",
                where=str(self.path),
                why=f"{query[:200]!r}: {type(error).__name__}: {error}",
                remedy=f"sqlite3 {self.path} 'DELETE FROM answers WHERE query = ...'; then run once with mode: record",
            ) from None

    def put(self, query: str, provider: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Record an answer; an answer that is already recorded is kept."""
        self._file.execute(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
            (query, provider, canonical_json(dict(parameters)), canonical_json(dict(answer)), time.time()),
        )

    def __len__(self) -> int:
        return self._file.execute("SELECT count(*) FROM answers")[0][0]

    def __enter__(self) -> Cassette:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CassetteSearch:
    """A search that reads the cassette; queries it lacks go to the provider, if one is given, and are recorded.

    White space in queries is collapsed before they are compared. Concurrent searches for the same query share one
    request. The file is read and written on a separate thread, because another process may hold its lock for long.
    """

    def __init__(
        self, cassette: Cassette, provider_name: str, parameters: Mapping[str, Any], provider: WebSearch | None = None
    ):
        self.cassette, self.provider_name = cassette, provider_name
        self.parameters, self.provider = parameters, provider
        self._in_flight: dict[str, asyncio.Task] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cassette")

    async def search(self, query: str) -> dict[str, Any]:
        """The answer. Raises `DataError` if the query is not recorded and there is no provider."""
        query = replace_surrogates(" ".join(query.split()))
        if query not in self._in_flight:
            self._in_flight[query] = asyncio.create_task(self._find(query))
            self._in_flight[query].add_done_callback(lambda _: self._in_flight.pop(query, None))
        return await asyncio.shield(self._in_flight[query])

    async def _find(self, query: str) -> dict[str, Any]:
        """Look up, request and record in one task, so that an equal query joins the task at any of these steps."""
        on_thread = asyncio.get_running_loop().run_in_executor
        answer = await on_thread(self._thread, self.cassette.get, query, self.provider_name, self.parameters)
        if answer is not None:
            return answer
        if self.provider is None:
            raise DataError(
                "query not in the cassette",
                where=str(self.cassette.path),
                why=f"no answer to {query[:200]!r} with parameters {canonical_json(dict(self.parameters))} is recorded",
                remedy="tools: {web_search: {mode: record}}  # requests missing answers from the provider, with a key",
            )
        answer = await self.provider.search(query)
        await on_thread(self._thread, self.cassette.put, query, self.provider_name, self.parameters, answer)
        return answer
