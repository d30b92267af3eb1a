"""Client of a retrieval server: keep-alive, time-outs, retries within a budget, faults that are never empty results.

Upstream's client (evaluation/utils.py) has no time-out and checks no status, so a dead service looks like a question
without hits. Here every failure to get a well-formed answer raises `SearchUnavailable`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import tenacity

from tir.errors import SearchUnavailable
from tir.records import read_json
from tir.retrieval.passage import Passage
from tir.surrogates import whole_text

TOKEN_VARIABLE = "TIR_SEARCH_TOKEN"

_faults: dict[str, str] = {}  # endpoint -> why its supervisor gave it up
_faults_lock = threading.Lock()


def mark_fault(endpoint: str, why: str | None) -> None:
    """Declare an endpoint lost (None: found again): this process's clients then fail at once instead of retrying."""
    with _faults_lock:
        if why is None:
            _faults.pop(endpoint, None)
        else:
            _faults[endpoint] = why


def resolve_endpoint(endpoint: str | os.PathLike) -> str:
    """URL of an endpoint given as a URL, as `host:port`, or as the file a server writes once ready.

    Raises `SearchUnavailable` if that file is not there (yet).
    """
    text = str(endpoint).rstrip("/")
    if text.startswith(("http://", "https://")):
        return text
    if "/" in text or text.endswith(".json"):
        if not Path(text).exists():
            raise SearchUnavailable("no endpoint file", where=text, why="written by a server once it is ready",
                                    remedy="start the server, or give its URL")
        found = read_json(text)
        host = f"[{found['host']}]" if ":" in found["host"] else found["host"]
        return f"http://{host}:{found['port']}"
    return f"http://{text}"


class _Retriable(Exception):
    """A failed attempt that another may mend."""


class SearchClient:
    """Client of one endpoint, usable from any number of event loops and threads.

    Args:
        endpoint: see `resolve_endpoint`.
        top_k: passages per query.
        timeout_s: seconds an answer may take, to its last byte (paper, appendix A.4: 60).
        connect_timeout_s: seconds a connection may take.
        token: bearer token; the environment's TIR_SEARCH_TOKEN if None.
        retry_budget_s: seconds from the first attempt after which a failure is final; covers a supervised restart.
    """

    def __init__(self, endpoint: str | os.PathLike, top_k: int = 10, timeout_s: float = 60.0,
                 connect_timeout_s: float = 5.0, token: str | None = None, retry_budget_s: float = 90.0):
        self.endpoint, self.top_k = resolve_endpoint(endpoint), top_k
        self.timeout_s, self.retry_budget_s = timeout_s, retry_budget_s
        token = token or os.environ.get(TOKEN_VARIABLE)
        self._options: dict[str, Any] = {
            "base_url": self.endpoint,
            "headers": {"authorization": f"Bearer {token}".encode()} if token else {},
            "timeout": httpx.Timeout(timeout_s, connect=connect_timeout_s),
            "limits": httpx.Limits(max_connections=256, max_keepalive_connections=256),
            "verify": self.endpoint.startswith("https://"),  # loading certificates takes 0.1 s
            "trust_env": False,  # a cluster's proxy settings must not catch traffic between its own nodes
        }
        # A connection belongs to the event loop that opened it.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._clients = weakref.WeakKeyDictionary()
        self._sync = threading.local()

    async def search(self, query: str) -> list[Passage]:
        """The `top_k` passages of one query, best first.

        Raises:
            ValueError: the query is blank (the caller's fault; no request is made).
            SearchUnavailable: no well-formed answer within the budget.
        """
        return (await self._post("/search", _checked([query])[0]))[0]

    async def batch_search(self, queries: Sequence[str]) -> list[list[Passage]]:
        """The passages of each query; errors as `search`. No queries, no request."""
        return await self._post("/batch_search", _checked(queries)) if queries else []

    def batch_search_sync(self, queries: Sequence[str]) -> list[list[Passage]]:
        """As `batch_search`, for code without an event loop."""
        if not queries:
            return []
        payload = {"query": _checked(queries), "top_n": self.top_k}
        if not hasattr(self._sync, "client"):
            self._sync.client = httpx.Client(**self._options)
        for attempt in tenacity.Retrying(**self._policy()):
            with attempt:
                self._check_fault()
                try:
                    response = self._whole("/batch_search", payload)
                except httpx.HTTPError as error:
                    raise _Retriable(_reason(error)) from error
                return self._parse("/batch_search", payload, response)
        raise AssertionError("unreachable")

    def _whole(self, path: str, payload: dict[str, Any]) -> httpx.Response:
        """The answer if its last byte comes in time; httpx's own time-out begins anew with every byte."""
        deadline, parts = time.monotonic() + self.timeout_s, []
        with self._sync.client.stream("POST", path, json=payload) as response:
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise _Retriable(self._late())
        return httpx.Response(response.status_code, content=b"".join(parts))

    def _late(self) -> str:
        return f"Timeout: no whole answer in {self.timeout_s:g} s"

    async def health(self) -> dict[str, Any]:
        """One attempt at /health; its JSON, with `index` added. Raises `SearchUnavailable`."""
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await self._client().get("/health")
            response.raise_for_status()
            return {**response.json(), "index": response.headers.get("x-index-digest")}
        except (httpx.HTTPError, TimeoutError, ValueError, TypeError, RecursionError) as error:
            raise self._fault(_reason(error)) from error

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(**self._options)
        return self._clients[loop]

    async def _post(self, path: str, query: str | list[str]) -> list[list[Passage]]:
        payload = {"query": query, "top_n": self.top_k}
        async for attempt in tenacity.AsyncRetrying(**self._policy()):
            with attempt:
                self._check_fault()
                try:
                    async with asyncio.timeout(self.timeout_s):  # httpx's own begins anew with every byte
                        response = await self._client().post(path, json=payload)
                except TimeoutError as error:
                    raise _Retriable(self._late()) from error
                except httpx.HTTPError as error:
                    raise _Retriable(_reason(error)) from error
                return self._parse(path, payload, response)
        raise AssertionError("unreachable")

    def _policy(self) -> dict[str, Any]:
        def give_up(state: tenacity.RetryCallState) -> None:
            raise self._fault(f"{state.outcome.exception()}; {state.attempt_number} attempts in "
                              f"{state.seconds_since_start:.0f} s")

        return {
            "retry": tenacity.retry_if_exception_type(_Retriable),
            "stop": tenacity.stop_after_delay(self.retry_budget_s),
            "wait": tenacity.wait_random_exponential(multiplier=0.1, max=3),
            "retry_error_callback": give_up,
        }

    def _parse(self, path: str, payload: dict[str, Any], response: httpx.Response) -> list[list[Passage]]:
        """Passages of an answer; raises `_Retriable` for what may pass, `SearchUnavailable` for what will not."""
        if response.status_code == 429 or response.status_code >= 500:
            raise _Retriable(f"status {response.status_code}: {response.text[:200]}")
        if response.status_code != 200:
            raise self._fault(f"status {response.status_code}: {response.text[:200]}")
        try:
            answer = response.json()
            lists = [answer] if path == "/search" else answer
            found = [[Passage(str(row["id"]), _text(row["contents"])) for row in _list(rows)] for rows in _list(lists)]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _Retriable(f"malformed answer ({type(error).__name__}: {error}): {response.text[:120]!r}") from error
        expected = 1 if path == "/search" else len(payload["query"])
        if len(found) != expected or any(len(rows) > self.top_k for rows in found):
            raise _Retriable(f"malformed answer: {len(found)} results for {expected} queries, top_n {self.top_k}")
        return found

    def _check_fault(self) -> None:
        why = _faults.get(self.endpoint)
        if why:
            raise self._fault(why)

    def _fault(self, why: str) -> SearchUnavailable:
        return SearchUnavailable("retrieval server does not answer", where=self.endpoint, why=why,
                                 remedy="see the server's log; a killed stage resumes where it stopped")


def _checked(queries: Sequence[str]) -> list[str]:
    for query in queries:
        if not isinstance(query, str) or not query.strip():
            raise ValueError("blank query")
    return [whole_text(query) for query in queries]


def _list(value: Any) -> list:
    if not isinstance(value, list):  # a mapping and a text can be gone through too, and look empty when they are
        raise TypeError(f"{type(value).__name__} where a list should be")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"contents is {type(value).__name__}")
    return whole_text(value)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}{f': {error}' if str(error) else ''}"
