"""One JSON-over-HTTP service: POST, time-outs, retries within a budget, and one typed fault for all that can go wrong.

Used for services this project does not run itself. A key is sent and never shown: not in an error, not in `repr`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import tenacity

from tir.errors import InfrastructureFault
from tir.surrogates import whole_json

Answer = TypeVar("Answer")
_WORDS_CHARS = 200
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses that another attempt may mend


class Refused(Exception):
    """The service understood and declined, for good; carries its status and its words."""

    def __init__(self, status: int, text: str):
        self.status, self.text = status, text
        super().__init__(f"status {status}: {text}")


class _Passing(Exception):
    """A failed attempt that another may mend; `after`: the seconds the service asked for."""

    def __init__(self, why: str, after: float | None = None):
        self.after = after
        super().__init__(why)


class Service:
    """A client of one service, usable from any number of event loops.

    Args:
        url: its base address.
        fault: exception type for a service that stays away; what it is called in errors is `name`.
        name: the service in a few words.
        key: bearer token, or None.
        timeout_s: seconds an answer may take, to its last byte.
        retry_budget_s: seconds from the first attempt after which a failure is final.
        concurrency: requests in flight per event loop.
        first_wait_s: scale of the first pause; pauses double, with jitter, and last no less than the service asks (Retry-After).
    """

    def __init__(self, url: str, fault: type[InfrastructureFault], name: str, *, key: str | None = None,
                 timeout_s: float = 60.0, retry_budget_s: float = 120.0, concurrency: int = 8, first_wait_s: float = 0.5):
        self.url, self.name, self._fault = url.rstrip("/"), name, fault
        self._key, self._budget_s, self._first_wait_s = key, retry_budget_s, first_wait_s
        self._timeout_s, self._concurrency = timeout_s, concurrency
        self._timeout = httpx.Timeout(timeout_s, connect=min(10.0, timeout_s))
        # A connection belongs to the event loop that opened it.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, asyncio.Semaphore]]
        self._clients = weakref.WeakKeyDictionary()

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """POST a JSON body and read the JSON answer.

        Args:
            path, body: the request. In it and in the answer, U+FFFD takes the place of a lone surrogate.
            read: turns the answer into what is wanted; a KeyError, IndexError, TypeError or ValueError in it means that
                the answer is malformed, which another attempt may mend.

        Raises:
            Refused: any status from 400 that does not pass; the caller knows what it means.
            the service's fault: no well-formed answer within the budget.
        """
        started = time.monotonic()
        try:
            async for attempt in tenacity.AsyncRetrying(
                    retry=tenacity.retry_if_exception_type(_Passing), wait=self._wait, reraise=True,
                    stop=tenacity.stop_before_delay(self._budget_s)):
                with attempt:
                    return await self._once(path, body, read)
        except _Passing as error:
            # A pause that would pass the budget is not waited for.
            tried = f"gave up after {time.monotonic() - started:.1f} s of at most {self._budget_s:g} s"
            raise self.fault(f"{error}; {tried}") from None
        raise AssertionError("unreachable: the last attempt raises")

    def fault(self, why: str, remedy: str = "run the same command again later; it goes on where it stopped") -> InfrastructureFault:
        """The service's typed fault, without the key if the service has echoed it."""
        return self._fault(f"{self.name} does not answer", where=self.url, why=self._hidden(why), remedy=remedy)

    async def _once(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        client, slots = self._client()
        async with slots:
            try:
                async with asyncio.timeout(self._timeout_s):  # httpx's own begins anew with every byte
                    response = await client.post(f"{self.url}{path}", json=whole_json(dict(body)))
            except TimeoutError:
                raise _Passing(f"Timeout: no whole answer in {self._timeout_s:g} s") from None
            except httpx.HTTPError as error:
                raise _Passing(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if response.status_code in PASSING:
            raise _Passing(f"status {response.status_code}: {self._words(response)}", retry_after(response))
        if response.status_code >= 400:
            raise Refused(response.status_code, self._words(response))
        try:
            return read(whole_json(response.json()))
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise _Passing(f"malformed answer ({type(error).__name__}: {error})") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        after = getattr(state.outcome.exception(), "after", None) or 0.0  # "now" is not meant to be taken at its word
        return max(after, tenacity.wait_random_exponential(self._first_wait_s, max=30)(state))

    def _words(self, response: httpx.Response) -> str:
        """The first of what an error answer says; the key goes before the end is cut off, or half of it would stay."""
        return self._hidden(_said(response))[:_WORDS_CHARS]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _client(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
            client = httpx.AsyncClient(headers=headers, timeout=self._timeout, verify=self.url.startswith("https://"))
            self._clients[loop] = client, asyncio.Semaphore(self._concurrency)
        return self._clients[loop]


def _said(response: httpx.Response) -> str:
    """What an error answer says: `{"detail": {"error": ...}}`, `{"error": {"message": ...}}`, or its text."""
    try:
        answer = response.json()
        inner = answer.get("detail", answer.get("error", answer))
        return str(inner.get("error", inner.get("message", inner)) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, RecursionError):
        return response.text.strip()


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, in either of its two forms; None if there is none that can be read."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        now = parsedate_to_datetime(response.headers["date"])
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
