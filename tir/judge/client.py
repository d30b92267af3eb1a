"""A client of any OpenAI-compatible server: temperature 0, fixed seed, faults retried and then named.

Two kinds of trouble are kept apart. A server that is busy or broken (429, 5xx, no connection, nonsense instead of
JSON) is asked again with growing pauses, then `JudgeUnavailable` stops the stage. A reply that is no verdict is asked
for again with a reminder, then comes back as a `Verdict` of None, which the caller reports. Neither ever becomes a
verdict.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tir.errors import JudgeUnavailable
from tir.judge.cache import Verdict, VerdictCache
from tir.judge.prompt import parse, reminded
from tir.service import PASSING, retry_after
from tir.tasks import run_all


class _Busy(Exception):
    """A request worth repeating; `after` is the server's own wish in seconds."""

    def __init__(self, why: str, after: float | None = None):
        super().__init__(why)
        self.after = after


class JudgeClient:
    """Asks one judge.

    Args:
        endpoint: URL up to and without `/v1`, or a function that gives it, called when the cache does not suffice.
        model: served model name.
        cache: where verdicts are remembered.
        seed, max_tokens: of each request; the temperature is 0.
        attempts: requests for one item, for faults and for unreadable replies each.
        concurrency: requests in flight.
        timeout_s: seconds for one reply.
        choices: ask the server to reply with one of the two words (vLLM's structured outputs); other servers ignore it.
        pause_s: first pause before a repetition, doubled each time.

    Attributes:
        counts: calls, cached, repeated, unreadable.
    """

    def __init__(self, endpoint: str | Callable[[], str], model: str, cache: VerdictCache, *, seed: int = 0, max_tokens: int = 16,
                 attempts: int = 5, concurrency: int = 50, timeout_s: float = 120.0, choices: bool = True,
                 pause_s: float = 1.0, api_key: str | None = None):
        self.endpoint = endpoint if isinstance(endpoint, str) else "not started yet"
        self._start = endpoint if callable(endpoint) else lambda: endpoint
        self.model, self.cache = model, cache
        self.counts: Counter[str] = Counter(calls=0, cached=0, repeated=0, unreadable=0)
        self._fixed: dict[str, Any] = {"model": model, "temperature": 0.0, "seed": seed, "max_tokens": max_tokens, "n": 1}
        if choices:
            self._fixed["structured_outputs"] = {"choice": ["Correct", "Incorrect"]}
        self._attempts, self._concurrency, self._pause_s = attempts, concurrency, pause_s
        self._options = {"timeout": httpx.Timeout(timeout_s, connect=10.0), "trust_env": False,
                         "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {}}

    def ask(self, requests: Iterable[list[dict]], told: Callable[[int], None] = lambda done: None) -> list[Verdict]:
        """Verdicts on requests (chat messages), in order; equal requests are asked once; `told` hears of progress.

        Raises `JudgeUnavailable` if the server stays away or refuses; verdicts until then are in the cache.
        """
        return asyncio.run(self._ask_all(list(requests), told))

    async def _ask_all(self, requests: list[list[dict]], told: Callable[[int], None]) -> list[Verdict]:
        keys = [self.cache.key(request) for request in requests]
        found: dict[str, Verdict] = {}
        waiting: dict[str, list[dict]] = {}
        for key, request in zip(keys, requests, strict=True):
            known = self.cache.get(request)
            if known:
                found[key] = known
            else:
                waiting[key] = request
        self.counts["cached"] += sum(key in found for key in keys)
        if not waiting:
            return [found[key] for key in keys]
        self.endpoint = self._start().rstrip("/")
        gate = asyncio.Semaphore(self._concurrency)
        async with httpx.AsyncClient(**self._options) as http:

            async def judge(key: str, request: list[dict]) -> None:
                async with gate:
                    found[key] = await self._judge(http, request)
                    told(len(found))

            await run_all(judge(key, request) for key, request in waiting.items())
        return [found[key] for key in keys]

    async def _judge(self, http: httpx.AsyncClient, request: list[dict]) -> Verdict:
        asked, reply = request, ""
        for attempt in range(1, self._attempts + 1):
            reply = await self._reply(http, asked)
            verdict = parse(reply)
            if verdict is not None:
                answer = Verdict(verdict, reply, attempt)
                self.cache.put(request, answer)
                return answer
            self.counts["unreadable"] += 1
            asked = reminded(request, reply)
        return Verdict(None, reply, self._attempts)

    async def _reply(self, http: httpx.AsyncClient, asked: list[dict]) -> str:
        pauses = wait_exponential_jitter(initial=self._pause_s, max=60 * self._pause_s, jitter=self._pause_s)

        def pause(state: RetryCallState) -> float:
            self.counts["repeated"] += 1
            wished = getattr(state.outcome.exception(), "after", None)
            return pauses(state) if wished is None else min(wished, 120.0)

        try:
            async for attempt in AsyncRetrying(retry=retry_if_exception_type(_Busy), wait=pause, reraise=True,
                                               stop=stop_after_attempt(self._attempts)):
                with attempt:
                    return await self._post(http, asked)
        except _Busy as busy:
            raise self._fault(f"{busy}, {self._attempts} times in a row") from None
        raise AssertionError("unreachable")

    async def _post(self, http: httpx.AsyncClient, asked: list[dict]) -> str:
        self.counts["calls"] += 1
        try:
            answer = await http.post(f"{self.endpoint}/v1/chat/completions", json={**self._fixed, "messages": asked})
        except httpx.HTTPError as error:
            raise _Busy(str(error) or type(error).__name__) from error
        if answer.status_code in PASSING:
            raise _Busy(f"status {answer.status_code}", retry_after(answer))
        if answer.status_code != 200:
            raise self._fault(f"status {answer.status_code}: {answer.text[:200].strip()}")
        try:
            content = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _Busy(f"not a chat completion ({type(error).__name__}): {answer.text[:80].strip()!r}") from None
        return content if isinstance(content, str) else ""

    def _fault(self, why: str) -> JudgeUnavailable:
        return JudgeUnavailable("the judge does not answer", where=self.endpoint, why=why,
                                remedy="look at the server, then run the same command again: verdicts so far are kept")
