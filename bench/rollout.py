"""Trajectories per minute of the rollout loop and of a loop with batch barriers, on the same simulated trajectories.

The barrier loop is upstream's design, but with parallel tool calls: each round waits for the slowest generation, then
for the slowest tool, and each batch for its longest trajectory. (Upstream calls its tools one by one, which is slower.)
The simulated engine takes a fixed time per token and row, independent of the number of rows in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import cache

import numpy as np
from support.qwen_like import qwen_like_tokenizer
from support.rollouts import limits

from bench.table import Figure
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.loop import rollout
from tir.rollout.protocol import STOP_STRINGS, encode_tool_text, render_result, tool_call
from tir.tools.base import ToolResult

SECONDS_PER_TOKEN = 0.004
TOOL_SECONDS = (0.05, 2.0)
TURN_TOKENS = 80  # median of a log-normal distribution
SETTINGS = limits(max_response_tokens=100_000)


class Plan:
    """The random content of a trajectory, seeded by its number: texts of its turns and durations of its tool calls."""

    def __init__(self, number: int):
        random = np.random.default_rng(number)
        self.calls = int(random.integers(1, 4))
        lengths = np.exp(random.normal(np.log(TURN_TOKENS), 0.6, self.calls + 1)).astype(int)
        self.turns = [
            f"<think>{' a' * length}</think>"
            + (f"<python>{number} {turn}</python>" if turn < self.calls else r"<answer>\boxed{1}</answer><|im_end|>")
            for turn, length in enumerate(lengths)
        ]
        self.tool_seconds = np.exp(random.uniform(*np.log(TOOL_SECONDS), self.calls)).tolist()


plan = cache(Plan)


class Engine:
    """Returns a trajectory's next turn after a time proportional to its number of tokens."""

    def __init__(self):
        self._turn: dict[str, int] = {}

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id) -> Completion:
        turn = self._turn.get(request_id, 0)
        self._turn[request_id] = turn + 1
        text = plan(int(request_id)).turns[turn]
        ids = qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"]
        await asyncio.sleep(len(ids) * SECONDS_PER_TOKEN)
        return Completion(ids, [], "stop" if text.endswith(STOP_STRINGS) else "eos")

    async def close(self) -> None:
        pass


class SlowTool:
    """A tool whose calls take the planned time."""

    async def call(self, body: str) -> ToolResult:
        number, turn = map(int, body.split())
        duration = plan(number).tool_seconds[turn]
        await asyncio.sleep(duration)
        return ToolResult("1", "ok", duration)


async def without_barrier(numbers: list[int], in_flight: int) -> int:
    """Run the project's loop; returns the number of tool calls."""
    slots, engine, tools = asyncio.Semaphore(in_flight), Engine(), {"python": SlowTool()}

    async def run_one(number: int) -> int:
        async with slots:
            result = await rollout(engine, qwen_like_tokenizer(), [1], tools, SETTINGS, Sampling(), str(number))
            return result.executed["python"]

    return sum(await asyncio.gather(*(run_one(number) for number in numbers)))


async def with_barrier(numbers: list[int], in_flight: int) -> int:
    """Run batches in rounds: generate for all rows, then call all tools; returns the number of tool calls."""
    engine, tool, tokenizer, calls = Engine(), SlowTool(), qwen_like_tokenizer(), 0
    for start in range(0, len(numbers), in_flight):
        active = {number: [1] for number in numbers[start : start + in_flight]}
        while active:
            completions = await asyncio.gather(
                *(
                    engine.generate(
                        context, max_tokens=100_000, sampling=Sampling(), stop=STOP_STRINGS, request_id=str(number)
                    )
                    for number, context in active.items()
                )
            )
            bodies = {}
            for number, completion in zip(list(active), completions, strict=True):
                if completion.finish == "eos":
                    del active[number]
                    continue
                active[number] += completion.token_ids
                bodies[number] = tool_call(tokenizer.decode(completion.token_ids)).body
            results = await asyncio.gather(*(tool.call(body) for body in bodies.values()))
            calls += len(results)
            for number, result in zip(bodies, results, strict=True):
                active[number] += encode_tool_text(tokenizer, render_result(result.text))
    return calls


def loops(trajectories: int = 192, in_flight: int = 64) -> Iterator[Figure]:
    """Measure both loops on the same trajectories, one after the other."""
    rates, numbers = {}, list(range(trajectories))
    for loop in (without_barrier, with_barrier):
        started = time.perf_counter()
        calls = asyncio.run(loop(numbers, in_flight))
        rates[loop] = 60 * trajectories / (time.perf_counter() - started)
        assert calls == sum(plan(number).calls for number in numbers)
    subject = f"{trajectories} trajectories, {in_flight} in flight, tools 50-2,000 ms"
    yield Figure(f"{subject}, this loop", "trajectories/min", rates[without_barrier])
    yield Figure(f"{subject}, loop with barriers", "trajectories/min", rates[with_barrier])
    yield Figure(subject, "ratio of rates", rates[without_barrier] / rates[with_barrier], ">= 2")
