"""Trace generation: roll out every item of one benchmark with one model, and write one record per trajectory.

Records are appended as trajectories finish, so a killed job resumes inside the benchmark. After an infrastructure fault
the item is tried again, three times in all; then the stage stops. A fault never becomes a record.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tir.common.concurrency import run_all
from tir.common.resumable import ResumableWriter
from tir.data.benchmarks import Item
from tir.rollout.engines.base import Engine, Sampling, request_seed
from tir.rollout.helpers.base import Helpers
from tir.rollout.loop import RolloutSettings, rollout
from tir.rollout.prompts import render_prompt
from tir.rollout.protocol import extract_answer, first_tool_offset
from tir.rollout.retry import retried
from tir.rollout.trajectory import Trajectory
from tir.tools.base import Tool


@dataclass(frozen=True)
class TraceJob:
    """The settings that all items of a benchmark share.

    Attributes:
        task: math, qa or web; selects the tools, and later the scoring.
        system_prompt: text of the system turn.
        settings: limits and conventions of a rollout.
        sampling: decoding parameters.
        samples: trajectories per item; the seed of each is derived from the run's seed, the item's id and its number.
        concurrency: number of trajectories generated at a time.
    """

    task: str
    system_prompt: str
    settings: RolloutSettings
    sampling: Sampling
    samples: int
    concurrency: int


async def generate_traces(
    engine: Engine,
    tokenizer,
    tools: Mapping[str, Tool],
    items: list[Item],
    job: TraceJob,
    output: str | os.PathLike,
    *,
    work: dict,
    helpers: Helpers | None = None,
) -> None:
    """Write `output` (JSON Lines, item order, then sample).

    Args:
        engine: see `rollout`.
        tokenizer: see `rollout`.
        tools: see `rollout`.
        items: the benchmark.
        job: the settings.
        output: the finished file.
        work: parameters and input digests; records of an interrupted job are kept only if they have the same.
        helpers: inference-time helpers, if any.
    """
    with ResumableWriter(output, work=work, key=("id", "sample")) as writer:
        requested = [(item, sample) for item in items for sample in range(job.samples)]
        pending = [(item, sample) for item, sample in requested if (item.id, sample) not in writer.done]
        if writer.done:
            print(f"resuming: {len(writer.done)} of {len(requested)} trajectories exist", file=sys.stderr)
        slots, progress = asyncio.Semaphore(job.concurrency), Progress(len(requested), len(requested) - len(pending))

        async def generate_one(item: Item, sample: int) -> None:
            async with slots:
                trajectory = await _with_retries(engine, tokenizer, tools, item, sample, job, helpers)
            if progress.done == 0 and not writer.done:
                print_trajectory(item, trajectory, job.system_prompt)
            writer.add(record(item, sample, job.task, trajectory))
            progress.step()

        await run_all(generate_one(item, sample) for item, sample in pending)
        writer.finish((item.id, sample) for item, sample in requested)


async def _with_retries(
    engine, tokenizer, tools, item: Item, sample: int, job: TraceJob, helpers: Helpers | None
) -> Trajectory:
    prompt_ids = render_prompt(tokenizer, job.system_prompt, item.question)
    seed = job.sampling.seed
    sampling = replace(job.sampling, seed=None if seed is None else request_seed(seed, item.id, sample))
    name = f"{item.id}-{sample}"
    return await retried(lambda: rollout(engine, tokenizer, prompt_ids, tools, job.settings, sampling, name, helpers))


def record(item: Item, sample: int, task: str, trajectory: Trajectory) -> dict:
    """A trajectory as a trace record, one JSON object with the segments and their authors."""
    segments = trajectory.segments
    model_tokens = sum(len(segment.token_ids) for segment in segments if segment.by == "model")
    return {
        "id": item.id,
        "sample": sample,
        "task": task,
        "question": item.question,
        "gold": item.gold,
        "segments": [segment.record() for segment in segments],
        "answer": extract_answer(segments),
        "n_python": trajectory.executed.get("python", 0),
        "n_search": trajectory.executed.get("search", 0),
        "emitted": trajectory.emitted,
        **({"helped": trajectory.helped} if trajectory.helped else {}),
        "first_tool_offset": first_tool_offset(segments),
        "finish": trajectory.finish,
        "usage": {"model_tokens": model_tokens, "response_tokens": len(trajectory.response_ids)},
        "timings": {"seconds": round(trajectory.seconds, 4), "tool_seconds": round(trajectory.tool_seconds, 4)},
    }


def print_trajectory(item: Item, trajectory: Trajectory, system_prompt: str) -> None:
    """Print a prompt and its trajectory in full. Most mistakes in an evaluation are visible in the first one."""
    lines = [f"--- first trajectory ---\n[system] {system_prompt}\n[user] {item.question}"]
    lines += [f"[{segment.by}] {segment.text}" for segment in trajectory.segments]
    print("\n".join([*lines, f"[gold] {item.gold}\n------------------------"]), file=sys.stderr)


class Progress:
    """Prints finished trajectories, rate and remaining time to stderr, at most one line every 5 seconds."""

    def __init__(self, total: int, done: int = 0):
        self.total, self.done = total, 0
        self._before, self._started, self._last = done, time.monotonic(), 0.0

    def step(self) -> None:
        """Count one trajectory; print if 5 seconds have passed since the last line, or if it was the last."""
        self.done += 1
        now = time.monotonic()
        complete = self._before + self.done == self.total
        if now - self._last > 5 or complete:
            self._last = now
            rate = self.done / max(now - self._started, 1e-9)
            left = (self.total - self._before - self.done) / rate
            print(
                f"{self._before + self.done}/{self.total} trajectories, {rate:.1f}/s, {left:.0f} s left",
                file=sys.stderr,
            )
