"""A client of an OpenAI-compatible server, with temperature 0 and a fixed seed.

It treats two kinds of failure differently. After a server fault (status 429 or 5xx, no connection, a malformed body) it
repeats the request with growing pauses; then `JudgeUnavailable` stops the stage. After an unreadable reply it repeats
the request with a reminder; then it returns a `Verdict` of None, which the caller reports. Neither is a verdict.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from tir.common.concurrency import run_all
from tir.common.errors import JudgeUnavailable
from tir.common.http import Refused, Service
from tir.scoring.judge.cache import Verdict, VerdictCache
from tir.scoring.judge.prompt import parse, reminded

if TYPE_CHECKING:
    from tir.config.judge import Judge

_RETRY_BUDGET_S = 600.0  # a server that asks for a longer pause is not waited for


class JudgeClient:
    """Requests verdicts from one judge.

    Args:
        endpoint: URL without `/v1`, or a function that returns it and is called at the first uncached request.
        judge: the section `judge`; the temperature of all requests is 0.
        cache: the verdicts so far.
        pause_s: mean pause before the first repetition in seconds, doubled each time.
        api_key: bearer token, if the server needs one.

    Attributes:
        counts: numbers of calls, cached verdicts, repeated requests and unreadable replies.
    """

    def __init__(
        self,
        endpoint: str | Callable[[], str],
        judge: Judge,
        cache: VerdictCache,
        *,
        pause_s: float = 1.0,
        api_key: SecretStr | None = None,
    ):
        self.endpoint = endpoint if isinstance(endpoint, str) else "not started yet"
        self._start = endpoint if callable(endpoint) else lambda: endpoint
        self.judge, self.cache = judge, cache
        self.counts: Counter[str] = Counter(calls=0, cached=0, repeated=0, unreadable=0)
        self._fixed: dict[str, Any] = {
            "model": judge.name,
            "temperature": 0.0,
            "seed": judge.seed,
            "max_tokens": judge.max_tokens,
            "n": 1,
        }
        if judge.choices:
            self._fixed["structured_outputs"] = {"choice": ["Correct", "Incorrect"]}
        self._options: dict[str, Any] = {
            "key": api_key,
            "timeout_s": judge.timeout_s,
            "retry_budget_s": _RETRY_BUDGET_S,
            "attempts": judge.attempts,
            "concurrency": judge.concurrency,
            "first_wait_s": 2 * pause_s,  # a pause is drawn between 0 and this
            "longest_wait_s": 60 * pause_s,
            "proxies": False,
            "before": self._count_call,
            "remedy": "check the server, then run the same command again; the verdicts so far are cached",
        }

    def ask(self, requests: Iterable[list[dict]], progress: Callable[[int], None] = lambda done: None) -> list[Verdict]:
        """Verdicts on requests (chat messages), in order. Equal requests are sent once.

        Args:
            progress: called with the number of verdicts after each new one.

        Raises `JudgeUnavailable` if the server cannot be reached or rejects a request; the verdicts so far are cached.
        """
        return asyncio.run(self._ask_all(list(requests), progress))

    async def _ask_all(self, requests: list[list[dict]], progress: Callable[[int], None]) -> list[Verdict]:
        keys = [self.cache.key(request) for request in requests]
        verdicts: dict[str, Verdict] = {}
        pending: dict[str, list[dict]] = {}
        for key, request in zip(keys, requests, strict=True):
            cached = self.cache.get(request)
            if cached:
                verdicts[key] = cached
            else:
                pending[key] = request
        self.counts["cached"] += sum(key in verdicts for key in keys)
        if not pending:
            return [verdicts[key] for key in keys]
        self.endpoint = self._start().rstrip("/")
        service = Service(self.endpoint, JudgeUnavailable, "the judge", **self._options)

        async def judge(key: str, request: list[dict]) -> None:
            verdicts[key] = await self._judge(service, request)
            progress(len(verdicts))

        await run_all(judge(key, request) for key, request in pending.items())
        return [verdicts[key] for key in keys]

    async def _judge(self, service: Service, request: list[dict]) -> Verdict:
        asked, reply = request, ""
        for attempt in range(1, self.judge.attempts + 1):
            try:
                reply = await service.post("/v1/chat/completions", {**self._fixed, "messages": asked}, _content)
            except Refused as refused:
                raise service.fault(str(refused)) from None
            verdict = parse(reply)
            if verdict is not None:
                # In a thread: another job may hold the file's lock.
                return await asyncio.to_thread(self.cache.put, request, Verdict(verdict, reply, attempt))
            self.counts["unreadable"] += 1
            asked = reminded(request, reply)
        return Verdict(None, reply, self.judge.attempts)

    def _count_call(self, attempt: int) -> None:
        self.counts.update(calls=1, repeated=int(attempt > 1))


def _content(answer: Any) -> str:
    content = answer["choices"][0]["message"]["content"]
    return content if isinstance(content, str) else ""
