"""Micro-batching: concurrent queries share one encoder pass and one scan of the vectors.

A flat scan costs the same memory traffic for one query as for many, so serving n waiting queries together is worth
more than any approximate index. One batch runs at a time, on a thread of its own: the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tir.retrieval.index import Index
from tir.retrieval.passage import Passage


_MOST_REMEMBERED = 100  # passages


class ResultCache:
    """The most recently used results, at most `capacity`, keyed by query and index digest.

    A result of more than 100 passages is not remembered: those that are take 0.7 GB at most, at 700 bytes a passage.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._entries: OrderedDict[tuple[str, str], tuple[int, list[Passage]]] = OrderedDict()

    def get(self, query: str, index_digest: str, k: int) -> list[Passage] | None:
        """The first k passages, if a search for at least k of them is remembered."""
        entry = self._entries.get((query, index_digest))
        if entry is None or entry[0] < k:
            return None
        self._entries.move_to_end((query, index_digest))
        return entry[1][:k]

    def put(self, query: str, index_digest: str, k: int, passages: list[Passage]) -> None:
        """Remember the result of a search for k passages (it may hold fewer)."""
        if self.capacity <= 0 or k > _MOST_REMEMBERED:
            return
        self._entries[query, index_digest] = (k, passages)
        self._entries.move_to_end((query, index_digest))
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass
class _Waiting:
    query: str
    k: int
    future: asyncio.Future = field(repr=False)


class MicroBatcher:
    """Collects queries for at most `window_s`, then searches them together.

    The window closes early once as many queries wait as the last batch held: a lone client is never made to wait, and
    n clients that each send their next query after an answer are collected whole.

    Args:
        index: searched on one worker thread.
        max_batch: most queries per search.
        window_s: seconds to collect.
        cache_size: results remembered.
    """

    def __init__(self, index: Index, *, max_batch: int = 256, window_s: float = 0.005, cache_size: int = 10_000):
        self.index, self.max_batch, self.window_s = index, max_batch, window_s
        self.cache = ResultCache(cache_size)
        self.batches = self.queries = 0
        self._waiting: list[_Waiting] = []
        self._due = asyncio.Event()  # as many wait as `_wanted`
        self._wanted = 1
        self._expected = 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to serve; call it inside the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Answer what waits, then end."""
        while self._waiting:
            await asyncio.sleep(0.005)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Results of all `queries`; raises what the index raises."""
        results: dict[str, list[Passage] | asyncio.Future] = {}
        for query in queries:
            if query in results:
                continue
            cached = self.cache.get(query, self.index.digest, k)
            if cached is not None:
                results[query] = cached
                continue
            results[query] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(query, k, results[query]))
        if len(self._waiting) >= self._wanted:
            self._due.set()
        futures = {query: result for query, result in results.items() if isinstance(result, asyncio.Future)}
        for query, found in zip(futures, await asyncio.gather(*futures.values()), strict=True):
            results[query] = found[:k]
        return [results[query] for query in queries]

    async def _serve(self) -> None:
        while True:
            await self._collect()
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
            batch = [waiting for waiting in batch if not waiting.future.done()]  # its client may have left
            if not batch:
                continue
            self._expected = len(batch)
            wanted: dict[str, int] = {}
            for waiting in batch:
                wanted[waiting.query] = max(waiting.k, wanted.get(waiting.query, 0))
            self._finish(batch, await self._find(wanted))

    async def _find(self, wanted: dict[str, int]) -> dict[str, list[Passage] | Exception]:
        """The passages of each query, `wanted` of them, or why there are none.

        A batch that fails is searched query by query: its neighbours must not pay for the one that cannot be answered.
        """
        unique = list(wanted)
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, self.index.search, unique, max(wanted.values()))
        except Exception as error:
            if len(unique) == 1:
                return {unique[0]: error}
            results: dict[str, list[Passage] | Exception] = {}
            for query, k in wanted.items():
                results |= await self._find({query: k})
            return results
        self.batches, self.queries = self.batches + 1, self.queries + len(unique)
        for query, passages in zip(unique, found, strict=True):
            self.cache.put(query, self.index.digest, wanted[query], passages[: wanted[query]])
        return dict(zip(unique, found, strict=True))

    async def _collect(self) -> None:
        """Return once a batch is due."""
        await self._until_waiting(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.window_s):
                await self._until_waiting(min(self._expected, self.max_batch))

    async def _until_waiting(self, count: int) -> None:
        """Sleep until so many wait: the loop is busy enough with what arrives, and is not woken for each."""
        if len(self._waiting) < count:
            self._wanted = count
            self._due.clear()
            await self._due.wait()

    @staticmethod
    def _finish(batch: list[_Waiting], by_query: dict[str, list[Passage] | Exception]) -> None:
        for waiting in batch:
            result = by_query[waiting.query]
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
