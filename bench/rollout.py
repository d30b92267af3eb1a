"""Trajectories per minute of the rollout loop beside a loop with a batch barrier, same engine, tools and draws, one run.

The barrier loop is upstream's design with its tools already in parallel: a round ends when the slowest row has written,
then when the slowest tool has answered, and a batch when its longest trajectory has. (Upstream calls its tools one by
one, which is slower still.) The engine takes a fixed time per token and row, however many rows are in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import cache

import numpy as np
from qwen_like import qwen_like_tokenizer

from bench.table import Figure
from tir.engines.base import Completion, Sampling
from tir.protocol import STOP_STRINGS, encode_tool_text, render_result, tool_call
from tir.rollout import RolloutSettings, rollout
from tir.tools.base import ToolResult

SECONDS_PER_TOKEN = 0.004
TOOL_SECONDS = (0.05, 2.0)
TURN_TOKENS = 80  # median of a log-normal
SETTINGS = RolloutSettings(max_response_tokens=100_000)


class Draws:
    """What a trajectory does, from its number alone: its turns' texts, and how long each of its tools takes."""

    def __init__(self, number: int):
        random = np.random.default_rng(number)
        self.calls = int(random.integers(1, 4))
        lengths = np.exp(random.normal(np.log(TURN_TOKENS), 0.6, self.calls + 1)).astype(int)
        self.turns = [f"<think>{' a' * length}</think>" + (f"<python>{number} {turn}</python>" if turn < self.calls else
                                                            r"<answer>\boxed{1}</answer><|im_end|>")
                      for turn, length in enumerate(lengths)]
        self.tools = np.exp(random.uniform(*np.log(TOOL_SECONDS), self.calls)).tolist()


draws = cache(Draws)


class Engine:
    """Writes a trajectory's next turn in a time proportional to its tokens."""

    def __init__(self):
        self._turn: dict[str, int] = {}

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id) -> Completion:
        turn = self._turn.get(request_id, 0)
        self._turn[request_id] = turn + 1
        text = draws(int(request_id)).turns[turn]
        ids = qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"]
        await asyncio.sleep(len(ids) * SECONDS_PER_TOKEN)
        return Completion(ids, [], "stop" if text.endswith(STOP_STRINGS) else "eos")

    async def close(self) -> None:
        pass


class SlowTool:
    """Takes as long as the draw of its call says."""

    async def call(self, body: str) -> ToolResult:
        number, turn = map(int, body.split())
        await asyncio.sleep(draws(number).tools[turn])
        return ToolResult("1", "ok", draws(number).tools[turn])


async def without_barrier(numbers: list[int], in_flight: int) -> int:
    """The project's loop; returns how many calls it made."""
    slots, engine, tools, calls = asyncio.Semaphore(in_flight), Engine(), {"python": SlowTool()}, 0

    async def one(number: int) -> int:
        async with slots:
            found = await rollout(engine, qwen_like_tokenizer(), [1], tools, SETTINGS, Sampling(), str(number))
            return found.executed["python"]

    calls = await asyncio.gather(*(one(number) for number in numbers))
    return sum(calls)


async def with_barrier(numbers: list[int], in_flight: int) -> int:
    """Rounds over a batch: all rows write, then all tools answer, until the batch is done."""
    engine, tool, tokenizer, calls = Engine(), SlowTool(), qwen_like_tokenizer(), 0
    for start in range(0, len(numbers), in_flight):
        active = {number: [1] for number in numbers[start : start + in_flight]}
        while active:
            written = await asyncio.gather(*(engine.generate(
                context, max_tokens=100_000, sampling=Sampling(), stop=STOP_STRINGS, request_id=str(number))
                for number, context in active.items()))
            wanted = {}
            for number, completion in zip(list(active), written, strict=True):
                if completion.finish == "eos":
                    del active[number]
                    continue
                active[number] += completion.token_ids
                wanted[number] = tool_call(tokenizer.decode(completion.token_ids)).body
            results = await asyncio.gather(*(tool.call(body) for body in wanted.values()))
            calls += len(results)
            for number, result in zip(wanted, results, strict=True):
                active[number] += encode_tool_text(tokenizer, render_result(result.text))
    return calls


def loops(trajectories: int = 192, in_flight: int = 64) -> Iterator[Figure]:
    """Both loops over the same trajectories, one after the other."""
    rates, numbers = {}, list(range(trajectories))
    for loop in (without_barrier, with_barrier):
        started = time.perf_counter()
        calls = asyncio.run(loop(numbers, in_flight))
        rates[loop] = 60 * trajectories / (time.perf_counter() - started)
        assert calls == sum(draws(number).calls for number in numbers)
    subject = f"{trajectories} trajectories, {in_flight} in flight, tools 50-2,000 ms"
    yield Figure(f"{subject}, this loop", "trajectories/min", rates[without_barrier])
    yield Figure(f"{subject}, a barrier per round", "trajectories/min", rates[with_barrier])
    yield Figure(subject, "ratio of rates", rates[without_barrier] / rates[with_barrier], ">= 2")
