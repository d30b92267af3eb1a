"""Trace generation: one benchmark, one model, every item through the rollout loop, one record each.

Records are appended as trajectories finish, so a killed job resumes inside the benchmark. An infrastructure fault is
retried a few times for its own item and then stops the stage; it never becomes a record.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tir.data.benchmarks import Item
from tir.engines.base import Engine, Sampling, request_seed
from tir.errors import InfrastructureFault
from tir.helping import Helpers
from tir.prompts import render_prompt
from tir.protocol import extract_answer, first_tool_offset
from tir.records import ResumableWriter
from tir.rollout import RolloutSettings, rollout
from tir.trajectory import Trajectory
from tir.tasks import run_all
from tir.tools.base import Tool

_ATTEMPTS = 3


@dataclass(frozen=True)
class TraceJob:
    """What to run on every item.

    Attributes:
        task: math, qa or web; chooses tools and, later, scoring.
        system_prompt: text of the system turn.
        settings, sampling: limits and decoding of a rollout.
        samples: trajectories per item; each has a seed of its own, from the run's, the item's id and its number.
        concurrency: trajectories in flight at once.
    """

    task: str
    system_prompt: str
    settings: RolloutSettings
    sampling: Sampling
    samples: int = 1
    concurrency: int = 64


async def generate_traces(engine: Engine, tokenizer, tools: Mapping[str, Tool], items: list[Item], job: TraceJob,
                          output: str | os.PathLike, *, work: dict, helpers: Helpers | None = None) -> None:
    """Write `output` (JSON Lines, item order, then sample).

    Args:
        engine, tokenizer, tools: as for `rollout`.
        items: the benchmark.
        job: what to run.
        output: the finished file.
        work: names the work for resuming: parameters and input digests.
        helpers: inference-time helpers, if any.
    """
    writer = ResumableWriter(output, work=work, key=("id", "sample"))
    wanted = [(item, sample) for item in items for sample in range(job.samples)]
    waiting = [(item, sample) for item, sample in wanted if (item.id, sample) not in writer.done]
    if writer.done:
        print(f"resuming: {len(writer.done)} of {len(wanted)} trajectories are there", file=sys.stderr)
    slots, progress = asyncio.Semaphore(job.concurrency), Progress(len(wanted), len(wanted) - len(waiting))

    async def one(item: Item, sample: int) -> None:
        async with slots:
            trajectory = await _with_retries(engine, tokenizer, tools, item, sample, job, helpers)
        if progress.done == 0 and not writer.done:
            show_first(item, trajectory, job.system_prompt)
        writer.add(record(item, sample, job.task, trajectory))
        progress.step()

    await run_all(one(item, sample) for item, sample in waiting)
    writer.finish((item.id, sample) for item, sample in wanted)


async def _with_retries(engine, tokenizer, tools, item: Item, sample: int, job: TraceJob,
                        helpers: Helpers | None) -> Trajectory:
    prompt_ids = render_prompt(tokenizer, job.system_prompt, item.question)
    seed = job.sampling.seed
    sampling = replace(job.sampling, seed=None if seed is None else request_seed(seed, item.id, sample))
    async for attempt in AsyncRetrying(retry=retry_if_exception_type(InfrastructureFault), reraise=True,
                                       stop=stop_after_attempt(_ATTEMPTS), wait=wait_exponential_jitter(0.5, 10)):
        with attempt:
            return await rollout(engine, tokenizer, prompt_ids, tools, job.settings, sampling, f"{item.id}-{sample}", helpers)
    raise AssertionError("unreachable: the last attempt raises")


def record(item: Item, sample: int, task: str, trajectory: Trajectory) -> dict:
    """A trajectory as a trace record: one JSON object, its segments with their authors among its fields."""
    segments = trajectory.segments
    model_tokens = sum(len(segment.token_ids) for segment in segments if segment.by == "model")
    return {
        "id": item.id, "sample": sample, "task": task, "question": item.question, "gold": item.gold,
        "segments": [segment.record() for segment in segments],
        "answer": extract_answer(segments),
        "n_python": trajectory.executed.get("python", 0), "n_search": trajectory.executed.get("search", 0),
        "emitted": trajectory.emitted,
        **({"helped": trajectory.helped} if trajectory.helped else {}),
        "first_tool_offset": first_tool_offset(segments),
        "finish": trajectory.finish,
        "usage": {"model_tokens": model_tokens, "response_tokens": len(trajectory.response_ids)},
        "timings": {"seconds": round(trajectory.seconds, 4), "tool_seconds": round(trajectory.tool_seconds, 4)},
    }


def show_first(item: Item, trajectory: Trajectory, system_prompt: str) -> None:
    """Print the first prompt and trajectory in full, once: most mistakes in an evaluation are visible here."""
    lines = [f"--- first trajectory ---\n[system] {system_prompt}\n[user] {item.question}"]
    lines += [f"[{segment.by}] {segment.text}" for segment in trajectory.segments]
    print("\n".join([*lines, f"[gold] {item.gold}\n------------------------"]), file=sys.stderr)


class Progress:
    """A line on stderr now and then: how many, how fast, how long still."""

    def __init__(self, total: int, done: int = 0, *, every_s: float = 5.0):
        self.total, self.done, self.every_s = total, 0, every_s
        self._before, self._started, self._last = done, time.monotonic(), 0.0

    def step(self) -> None:
        """Count one; print if a few seconds have passed or all are done."""
        self.done += 1
        now = time.monotonic()
        complete = self._before + self.done == self.total
        if now - self._last > self.every_s or complete:
            self._last = now
            rate = self.done / max(now - self._started, 1e-9)
            left = (self.total - self._before - self.done) / rate
            print(f"{self._before + self.done}/{self.total} trajectories, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr)
