"""A client for JSON over HTTP: POST requests, timeouts, retries within a time budget, one typed error for all failures.

Used for the retrieval server, the judge, the helpers' model and the web search. The key is sent, and is removed from
everything that the service answers, so it reaches no error, log, record or cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import httpx
import tenacity
from pydantic import SecretStr

from tir.common.errors import InfrastructureFault
from tir.common.keys import Redaction
from tir.common.unicode import replace_surrogates_in_json

Answer = TypeVar("Answer")
logging.getLogger("httpcore").setLevel(logging.INFO)  # at DEBUG it logs the headers of answers
_MESSAGE_CHARS = 200
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses for which a retry may succeed


class Refused(Exception):
    """The service refused the request with a status for which a retry is useless; has its status and its message."""

    def __init__(self, status: int, text: str):
        self.status, self.text = status, text
        super().__init__(f"status {status}: {text}")


class Unsendable(httpx.RequestError):
    """A request that cannot be sent: its address, a proxy or the file of certificates is invalid."""

    remedy = "env | grep -i -e _proxy -e SSL_CERT  # correct HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE, or the address"


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Raise `Unsendable` if the client cannot be made, or the request in this context not be sent, as configured."""
    try:
        yield
    except httpx.HTTPError:
        raise
    except Exception as error:
        # InvalidURL; ValueError for an unknown kind of proxy; ImportError for a SOCKS proxy; OSError for certificates;
        # a group with OverflowError for a port.
        while inner := getattr(error, "exceptions", None):
            error = inner[0]
        raise Unsendable(f"{type(error).__name__}: {error}") from None


class _TransientFailure(Exception):
    """A failed attempt that may be retried; `after` is the wait in seconds that the service asked for, or None."""

    def __init__(self, why: str, after: float | None = None):
        self.after = after
        super().__init__(why)


class _Bearer(httpx.Auth):
    """Adds the key to each request, so that no other object contains it."""

    def __init__(self, key: SecretStr):
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        request.headers["authorization"] = f"Bearer {self._key.get_secret_value()}"
        yield request


class Service:
    """A client of one service; may be used from several event loops.

    Args:
        url: base URL of the service.
        fault: type of the error if the service does not answer.
        name: name of the service in errors.
        key: bearer token (`tir.common.keys.read_key`), or None.
        timeout_s: longest time of a whole answer in seconds.
        connect_timeout_s: longest time to connect in seconds.
        retry_budget_s: time in seconds after which a failed request is not retried, counted from the first attempt.
        attempts: largest number of attempts.
        concurrency: largest number of requests in flight per event loop.
        first_wait_s: scale of the first wait between attempts. Waits double, with jitter, up to `longest_wait_s`, but
            are at least as long as the service asks (Retry-After).
        longest_wait_s: see `first_wait_s`.
        proxies: use the proxy settings of the environment; False for a service in the same cluster.
        before: called with the number of the attempt before each attempt; may raise to give up.
        check: called with the headers of each answer; may raise to reject the answer and give up.
        remedy: remedy in the error.
    """

    def __init__(
        self,
        url: str,
        fault: type[InfrastructureFault],
        name: str,
        *,
        key: SecretStr | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        retry_budget_s: float = 120.0,
        attempts: float = math.inf,
        concurrency: int = 8,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 30.0,
        proxies: bool = True,
        before: Callable[[int], None] = lambda attempt: None,
        check: Callable[[Mapping[str, str]], None] = lambda headers: None,
        remedy: str = "run the same command again later; it continues where it stopped",
    ):
        self.url, self.name, self._fault, self._remedy = url.rstrip("/"), name, fault, remedy
        self._redaction, self._timeout_s = Redaction(key), timeout_s
        self._concurrency, self._before, self._check = concurrency, before, check
        self._budget_s, self._attempts = retry_budget_s, attempts
        self._pause = tenacity.wait_random_exponential(first_wait_s, max=longest_wait_s)
        self._options: dict[str, Any] = {
            "auth": _Bearer(key) if key else None,
            "timeout": httpx.Timeout(timeout_s, connect=min(connect_timeout_s, timeout_s)),
            "limits": httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            "verify": self.url.startswith("https://"),  # loading certificates takes 0.1 s
            "trust_env": proxies,
        }
        # A connection belongs to the event loop that opened it.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, asyncio.Semaphore]]
        self._clients = weakref.WeakKeyDictionary()

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """POST a JSON body and return the result of `read` for the JSON answer.

        Args:
            path: path of the URL.
            body: the request. Lone surrogates in the request and in the answer are replaced by U+FFFD.
            read: extracts the result from the answer. If it raises KeyError, IndexError, TypeError or ValueError, the
                answer is malformed, and the request is retried.

        Raises:
            Refused: the status is an error for which a retry is useless, e.g. 400, 401 or 404.
            InfrastructureFault: there was no well-formed answer within the budget; of the type `fault`.
        """
        started = time.monotonic()
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(_TransientFailure),
                wait=self._wait,
                reraise=True,
                stop=tenacity.stop_before_delay(self._budget_s) | tenacity.stop_after_attempt(self._attempts),
            ):
                with attempt:
                    self._before(attempt.retry_state.attempt_number)
                    return await self._once(path, body, read)
        except _TransientFailure as error:
            # This can be before the budget is spent: a wait that would exceed it is not begun.
            elapsed = f"gave up after {time.monotonic() - started:.1f} s of at most {self._budget_s:g} s"
            raise self.fault(f"{error}; {elapsed}") from None
        raise AssertionError("unreachable: the last attempt raises")

    def fault(self, why: str, remedy: str = "") -> InfrastructureFault:
        """The service's typed error; the key is removed from `why`, in case the service echoed it."""
        what = f"{self.name} does not answer"
        return self._fault(what, where=self.url, why=self._redaction.in_error(why), remedy=remedy or self._remedy)

    async def _once(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        try:
            with sending():
                client, slots = self._client()
            async with slots:
                # httpx's read timeout restarts with every byte.
                with anyio.fail_after(self._timeout_s), sending():
                    response = await client.post(f"{self.url}{path}", json=replace_surrogates_in_json(dict(body)))
        except TimeoutError:
            raise _TransientFailure(f"Timeout: no whole answer in {self._timeout_s:g} s") from None
        except httpx.LocalProtocolError:  # its message shows the headers of the request
            raise self.fault("the request cannot be sent: a header is invalid") from None
        except Unsendable as error:
            raise self.fault(str(error), error.remedy) from None
        except httpx.HTTPError as error:
            raise _TransientFailure(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if response.status_code in _TRANSIENT:
            raise _TransientFailure(f"status {response.status_code}: {self._message(response)}", _retry_after(response))
        if response.status_code >= 400:
            raise Refused(response.status_code, self._message(response))
        self._check(response.headers)
        try:
            return read(self._redaction.in_answer(replace_surrogates_in_json(response.json())))
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise _TransientFailure(f"malformed answer ({type(error).__name__}: {error})") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        after = getattr(state.outcome.exception(), "after", None) or 0.0
        return max(after, self._pause(state))  # also with Retry-After: 0, so that retries do not flood the service

    def _message(self, response: httpx.Response) -> str:
        """The beginning of an error message. The key is removed before cutting, which could leave half of it."""
        return self._redaction.in_error(_error_message(response))[:_MESSAGE_CHARS]

    def _client(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(**self._options), asyncio.Semaphore(self._concurrency)
        return self._clients[loop]


def ask_once(
    method: str,
    url: str,
    timeout_s: float,
    *,
    headers: Mapping[str, str] | None = None,
    proxies: bool = True,
    redirects: bool = False,
) -> httpx.Response:
    """The answer to one request without body and without retries, for code without `await`.

    Args:
        timeout_s: longest time of the whole answer in seconds.
        proxies: see `Service`.
        redirects: follow them.

    Raises `httpx.HTTPError`; `Unsendable`, which is one, if no request could be sent with these settings.
    """

    async def ask() -> httpx.Response:
        verify = redirects or url.startswith("https://")
        try:
            with anyio.fail_after(timeout_s), sending():
                async with httpx.AsyncClient(timeout=timeout_s, trust_env=proxies, verify=verify) as client:
                    return await client.request(method, url, headers=headers, follow_redirects=redirects)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer in {timeout_s:g} s") from None

    with ThreadPoolExecutor(1) as thread:  # an event loop may already run in this one
        return thread.submit(anyio.run, ask).result()


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in an answer, or {} if it is anything else, also if it is nested too deeply to be read."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def require_type(value: Any, kind: type[Answer]) -> Answer:
    """The value if it is of the given type, else `TypeError`; for `read` functions, to reject malformed answers."""
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _error_message(response: httpx.Response) -> str:
    """The message in an error answer: `{"detail": {"error": ...}}`, `{"error": {"message": ...}}`, or its text."""
    try:
        answer = response.json()
        inner = answer.get("detail", answer.get("error", answer))
        return str(inner.get("error", inner.get("message", inner)) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, RecursionError):
        return response.text.strip()


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds in a Retry-After header, which is a number or a date; None if it is missing or invalid."""
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
