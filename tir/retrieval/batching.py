"""Micro-batching: concurrent queries share one encoder pass and one scan of the vectors.

A flat scan reads the same memory for one query as for many, so searching n waiting queries together gains more than any
approximate index. One batch runs at a time, on a separate thread that does not block the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import anyio

from tir.retrieval.index import Index
from tir.retrieval.passage import Passage

_MAX_CACHED_PASSAGES = 100  # per result
_MAX_BATCH_PASSAGES = 25_600  # a search returns as many passages for every query as the longest result needs


class ResultCache:
    """The `capacity` most recently used results, keyed by query and index digest.

    Results of more than 100 passages are not cached. So 10,000 results take at most 0.7 GB, at 700 bytes per passage.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._entries: OrderedDict[tuple[str, str], tuple[int, list[Passage]]] = OrderedDict()

    def get(self, query: str, index_digest: str, k: int) -> list[Passage] | None:
        """The first k passages if the result of a search for at least k passages is cached, else None."""
        entry = self._entries.get((query, index_digest))
        if entry is None or entry[0] < k:
            return None
        self._entries.move_to_end((query, index_digest))
        return entry[1][:k]

    def put(self, query: str, index_digest: str, k: int, passages: list[Passage]) -> None:
        """Cache the result of a search for k passages, which may contain fewer."""
        if self.capacity <= 0 or k > _MAX_CACHED_PASSAGES:
            return
        self._entries[query, index_digest] = (k, passages)
        self._entries.move_to_end((query, index_digest))
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass
class _Request:
    query: str
    k: int
    future: asyncio.Future = field(repr=False)


class MicroBatcher:
    """Collects queries for at most `window_s`, then searches them together.

    The window closes early when as many queries wait as the last batch contained. So a single client never waits, and n
    clients that each send their next query after an answer form full batches. A batch takes one query of each call in
    turn, so that a call with thousands of queries does not hold up the others.

    Args:
        index: the index, searched on one worker thread.
        max_batch: largest number of queries per search.
        window_s: longest time to collect queries, in seconds.
        cache_size: number of cached results.
    """

    def __init__(self, index: Index, *, max_batch: int = 256, window_s: float = 0.005, cache_size: int = 10_000):
        self.index, self.max_batch, self.window_s = index, max_batch, window_s
        self.cache = ResultCache(cache_size)
        self.batches = self.queries = 0
        self._calls: deque[deque[_Request]] = deque()
        self._waiting = 0  # requests in all calls
        self._enough = asyncio.Event()  # set when at least `_threshold` requests wait
        self._threshold = 1
        self._last_batch_size = 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Start the batching task; must be called inside the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Answer all waiting requests, then stop."""
        while self._calls:
            await asyncio.sleep(0.005)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Results of `queries`, in order; raises the index's exception if a query fails."""
        results: dict[str, list[Passage] | asyncio.Future] = {}
        call: deque[_Request] = deque()
        for query in queries:
            if query in results:
                continue
            cached = self.cache.get(query, self.index.digest, k)
            if cached is not None:
                results[query] = cached
                continue
            results[query] = asyncio.get_running_loop().create_future()
            call.append(_Request(query, k, results[query]))
        if call:
            self._calls.append(call)
            self._waiting += len(call)
        if self._waiting >= self._threshold:
            self._enough.set()
        futures = {query: result for query, result in results.items() if isinstance(result, asyncio.Future)}
        for query, passages in zip(futures, await asyncio.gather(*futures.values()), strict=True):
            results[query] = passages[:k]
        return [results[query] for query in queries]

    async def _serve(self) -> None:
        while True:
            await self._collect()
            # Drop requests whose client has disconnected.
            batch = [each for each in self._take() if not each.future.done()]
            if not batch:
                continue
            self._last_batch_size = len(batch)
            k_by_query: dict[str, int] = {}
            for request in batch:
                k_by_query[request.query] = max(request.k, k_by_query.get(request.query, 0))
            self._set_results(batch, await self._search(k_by_query))

    def _take(self) -> list[_Request]:
        """The requests of the next batch, one of each call in turn."""
        batch: list[_Request] = []
        longest = 0
        while self._calls and len(batch) < self.max_batch:
            longest = max(longest, self._calls[0][0].k)
            if batch and (len(batch) + 1) * longest > _MAX_BATCH_PASSAGES:
                break
            call = self._calls.popleft()
            batch.append(call.popleft())
            if call:
                self._calls.append(call)
        self._waiting -= len(batch)
        return batch

    async def _search(self, k_by_query: dict[str, int]) -> dict[str, list[Passage] | Exception]:
        """Passages of each query, or the exception that its search raised.

        If a batch fails, its queries are searched one by one, so that one bad query does not fail the others.
        """
        queries = list(k_by_query)
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._thread, self.index.search, queries, max(k_by_query.values())
            )
        except Exception as error:
            if len(queries) == 1:
                return {queries[0]: error}
            by_query: dict[str, list[Passage] | Exception] = {}
            for query, k in k_by_query.items():
                by_query |= await self._search({query: k})
            return by_query
        self.batches, self.queries = self.batches + 1, self.queries + len(queries)
        for (query, k), passages in zip(k_by_query.items(), results, strict=True):
            self.cache.put(query, self.index.digest, k, passages[:k])
        return dict(zip(queries, results, strict=True))

    async def _collect(self) -> None:
        """Wait for the first request, then for as many as the last batch contained or until the window closes."""
        await self._until_waiting(1)
        with anyio.move_on_after(self.window_s):
            await self._until_waiting(min(self._last_batch_size, self.max_batch))

    async def _until_waiting(self, count: int) -> None:
        """Sleep until `count` requests wait; this task is woken once, not by every request."""
        if self._waiting < count:
            self._threshold = count
            self._enough.clear()
            await self._enough.wait()

    @staticmethod
    def _set_results(batch: list[_Request], by_query: dict[str, list[Passage] | Exception]) -> None:
        for request in batch:
            result = by_query[request.query]
            if request.future.done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
