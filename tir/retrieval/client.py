"""Client of a retrieval server, with timeouts and retries; a failure raises and never looks like an empty result.

Upstream's client (evaluation/utils.py) has no timeout and does not check the status, so a dead server looks like a
query without results. Here every failure to get a well-formed answer raises `SearchUnavailable`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tir.common.errors import SearchUnavailable, WrongIndex
from tir.common.http import Refused, Service, require_type
from tir.common.keys import read_key
from tir.common.records import read_json
from tir.retrieval.folder import Address, Folder, address_of
from tir.retrieval.passage import Passage

TOKEN_VARIABLE = "TIR_SEARCH_TOKEN"
INDEX_HEADER = "x-index-digest"
_LOOK_EVERY_S = 0.05


def resolve_endpoint(endpoint: str | os.PathLike) -> Address:
    """Address of a server, given as URL, `host:port`, or the endpoint file that a server writes when it is ready.

    Raises `SearchUnavailable` if the endpoint file does not exist.
    """
    text = str(endpoint).rstrip("/")
    if text.startswith(("http://", "https://")):
        return Address(text)
    if "/" in text or text.endswith(".json"):
        if not Path(text).exists():
            raise SearchUnavailable(
                "no endpoint file",
                where=text,
                why="the server writes this file when it is ready",
                remedy="start the server with --endpoint-file, or give its URL",
            )
        return address_of(read_json(text))
    return Address(f"http://{text}")


class _Moved(Exception):
    """The job's server has changed since the first attempt of a request."""


class SearchClient:
    """Client of one server, or of those that a job uses in turn; may be used from several event loops and threads.

    Args:
        endpoint: see `resolve_endpoint`; or a job's folder (`tir.retrieval.sidecar`). The first search asks there for a
            server and waits for it. A failed search is sent again to the server that replaces a lost one.
        top_k: number of passages per query.
        timeout_s: longest time of a whole answer in seconds (paper, appendix A.4: 60).
        token: bearer token; None: the one beside the address, or the environment variable TIR_SEARCH_TOKEN.
        retry_budget_s: time in seconds after which a failed request is not retried. Waiting for a server that starts
            does not count.
    """

    def __init__(
        self,
        endpoint: str | os.PathLike,
        top_k: int = 5,
        timeout_s: float = 60.0,
        token: str | None = None,
        retry_budget_s: float = 90.0,
    ):
        self.endpoint, self.top_k, self._token = str(endpoint), top_k, token
        self._folder = Folder(endpoint) if Path(endpoint).is_dir() else None
        self._address = None if self._folder else resolve_endpoint(endpoint)
        self._limits = {"timeout_s": timeout_s, "retry_budget_s": retry_budget_s}
        self._services: dict[Address, Service] = {}
        self._first_index: dict[Address, str | None] = {}

    async def search(self, query: str) -> list[Passage]:
        """The `top_k` passages of one query, best first.

        Raises:
            ValueError: the query is blank; no request is made.
            SearchUnavailable: there was no well-formed answer within the retry budget.
            WrongIndex: the server answers from another index than the job's; without a job, than in its first answer.
        """
        [query] = _checked([query])
        return (await self._post("/search", query, lambda answer: [answer]))[0]

    async def batch_search(self, queries: Sequence[str]) -> list[list[Passage]]:
        """The passages of each query; raises like `search`. Makes no request without queries."""
        queries = _checked(queries)
        if not queries:
            return []
        return await self._post("/batch_search", queries, lambda answer: answer)

    def batch_search_sync(self, queries: Sequence[str]) -> list[list[Passage]]:
        """As `batch_search`, for code without `await`."""
        with ThreadPoolExecutor(1) as thread:  # another thread, because notebooks run an event loop on this one
            return thread.submit(asyncio.run, self.batch_search(queries)).result()

    async def _post(self, path: str, query: Any, results: Callable[[Any], Any]) -> list[list[Passage]]:
        """Send a request; `results` makes one list of passages per query of the JSON in its answer."""
        queries = 1 if isinstance(query, str) else len(query)
        while True:
            address = self._address = self._address or await self._find()
            service, dense = self._service(address), address.dense
            try:
                return await service.post(
                    path,
                    {"query": query, "top_n": self.top_k},
                    lambda answer: self._passages(results(answer), queries, dense),
                )
            except Refused as refused:
                raise service.fault(str(refused)) from None
            except _Moved:
                self._address = None

    async def _find(self) -> Address:
        """Ask for the job's server, and wait until it is ready or there will be none."""
        self._folder.ask()
        while not (address := self._folder.address()):
            if (why := self._folder.refusal()) or not self._folder.exists():
                raise self._fault(why or "the job has ended")
            await asyncio.sleep(_LOOK_EVERY_S)
        return address

    def _service(self, address: Address) -> Service:
        if address not in self._services:
            self._services[address] = Service(
                address.url,
                SearchUnavailable,
                "the retrieval server",
                key=SecretStr(token) if (token := self._token or address.token) else read_key(TOKEN_VARIABLE),
                connect_timeout_s=5.0,
                concurrency=256,
                first_wait_s=0.1,
                longest_wait_s=3.0,
                proxies=False,
                before=lambda attempt: self._check_moved(attempt, address),
                check=lambda headers: self._check_index(headers, address),
                remedy="see the server's log, then run the same command again; it continues where it stopped",
                **self._limits,
            )
        return self._services[address]

    def _check_index(self, headers: Mapping[str, str], address: Address) -> None:
        """Raise `WrongIndex` for an answer from another index than the job's, or than the first answer's."""
        found = headers.get(INDEX_HEADER)
        expected = address.index or self._first_index.setdefault(address, found)
        if expected and found != expected:
            raise wrong_index(replace(address, index=expected), found)

    def _check_moved(self, attempt: int, address: Address) -> None:
        if attempt > 1 and self._folder and self._folder.address() != address:
            raise _Moved

    def _fault(self, why: str) -> SearchUnavailable:
        return SearchUnavailable(
            "no retrieval server",
            where=self.endpoint,
            why=why,
            remedy="see the job's log, then run the same command again; it continues where it stopped",
        )

    def _passages(self, answer: Any, queries: int, dense: bool) -> list[list[Passage]]:
        results = [
            [Passage(str(row["id"]), require_type(row["contents"], str)) for row in require_type(rows, list)]
            for rows in require_type(answer, list)
        ]
        if len(results) != queries or any(len(passages) > self.top_k for passages in results):
            raise ValueError(f"{len(results)} results for {queries} queries, top_n {self.top_k}")
        if dense and not all(results):
            raise ValueError("no passage from a dense index, which has passages for every query")
        return results


def wrong_index(address: Address, found: str | None) -> WrongIndex:
    """The error for a server that answers from the index `found` (its digest, or None if it states none)."""
    return WrongIndex(
        "answers from another index",
        where=address.url,
        why=f"the job's index is {address.index}, the server's is {found or 'not stated'}",
        remedy="start the server with the index of this run; or let jobs start their own:  "
        "site: {retrieval_endpoint: none}",
    )


def _checked(queries: Sequence[str]) -> list[str]:
    for query in queries:
        if not isinstance(query, str) or not query.strip():
            raise ValueError("blank query")
    return list(queries)
