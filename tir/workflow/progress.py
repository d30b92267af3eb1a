"""Progress lines of a run: one for each finished job, and one for each minute in which no job finishes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tir.common.subprocesses import tail

# Seconds and cores of one job of the laptop run on two cores, by rule; jobs of other rules take two seconds. These
# values give the share of work that is left. The speed of the machine comes from the jobs that have finished.
TYPICAL = {
    "world_trajectories": (10.0, 2),
    "index": (9.0, 2),
    "sft": (110.0, 1),
    "rl": (340.0, 2),
    "rl_after_dpo": (340.0, 2),
    "dpo_samples": (60.0, 1),
    "dpo": (60.0, 1),
    "teacher_samples": (300.0, 1),
    "traces": (43.0, 1),
    "judge": (7.0, 1),
}
SHORT = (2.0, 1)
QUIET_SECONDS = 60.0
LOG_LINES = 25  # of a failed job


@dataclass
class Running:
    """A running job.

    Attributes:
        name: rule and wildcards, e.g. `traces sft/gsm8k`.
        logs: paths of its log files.
        since: when it started, by the clock of `Progress`.
        cores: the cores that it holds.
    """

    name: str
    rule: str
    logs: Sequence[str]
    since: float
    cores: int


class Progress:
    """Follows a run and prints its progress lines.

    Args:
        say: prints one line.
        clock: returns seconds; tests replace it.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._say, self._clock = say, clock
        self._started = self._last = clock()
        self._cores = 1
        self._waiting: dict[str, int] = {}
        self._running: dict[int, Running] = {}
        self._total = self._done = 0
        # Cores times seconds of each finished job, by rule.
        self._measured: dict[str, list[float]] = defaultdict(list)

    def plan(self, jobs: Mapping[str, int], cores: int) -> None:
        """Start with the number of jobs of each rule and the number of cores."""
        self._waiting, self._total, self._cores = dict(jobs), sum(jobs.values()), cores
        self._line(f"{self._total} jobs{self._left()}")

    def start(self, number: int, rule: str, wildcards: Mapping[str, Any], logs: Sequence[str], cores: int) -> None:
        """Note that a job has started; `number` is its id in Snakemake."""
        name = f"{rule} {'/'.join(str(value).strip('/') for value in wildcards.values() if value)}".strip()
        self._running[number] = Running(name, rule, logs, self._clock(), min(cores, self._cores))
        self._waiting[rule] = max(0, self._waiting.get(rule, 0) - 1)

    def finish(self, number: int) -> None:
        """Print the line of a finished job."""
        job = self._running.pop(number, None)
        if job is None:
            return
        seconds = self._clock() - job.since
        self._measured[job.rule].append(seconds * job.cores)
        self._done += 1
        self._line(f"{job.name} took {duration(seconds)}; {self._times()}")

    def fail(self, number: int, rule: str, logs: Sequence[str]) -> None:
        """Print the name of a failed job and the end of its log."""
        job = self._running.pop(number, None)
        self._line(f"FAILED: {job.name if job else rule}")
        for log in logs:
            self._say(f"the end of {log}:")
            for line in tail(log, LOG_LINES) or ["(it is empty)"]:
                self._say(f"    {line}")

    def wait(self) -> None:
        """Print the state of the longest-running job if no line was printed for a minute. Call this every second."""
        if self._clock() - self._last < QUIET_SECONDS or not self._running:
            return
        job = min(self._running.values(), key=lambda each: each.since)
        last = [line for log in job.logs for line in tail(log, 1)]
        self._line(
            f"{job.name} is running, {duration(self._clock() - job.since)} so far"
            + (f" ({last[-1].strip()[:70]})" if last else "")
            + f"; {self._times()}"
        )

    def _times(self) -> str:
        return f"{duration(self._clock() - self._started)} elapsed{self._left()}"

    def _left(self) -> str:
        """`, about 9 min left`: the work of the unfinished jobs divided by the cores; empty after the last job."""
        if self._done == self._total:
            return ""
        now = self._clock()
        work = sum(count * self._expected(rule) for rule, count in self._waiting.items())
        work += sum(
            max(0.0, self._expected(job.rule) - (now - job.since) * job.cores) for job in self._running.values()
        )
        minutes = round(work / self._cores / 60)
        return f", about {minutes} min left" if minutes else ", less than a minute left"

    def _expected(self, rule: str) -> float:
        """Cores times seconds of a job: the mean of what was measured and of what is typical at this speed."""
        measured = self._measured.get(rule, [])
        return (_typical(rule) * self._pace() + sum(measured)) / (1 + len(measured))

    def _pace(self) -> float:
        """How much longer than typical the finished jobs took. Two minutes of typical work are added to both sides: a
        single short job says little about the machine.
        """
        known = {rule: found for rule, found in self._measured.items() if rule in TYPICAL}
        typical = sum(_typical(rule) * len(found) for rule, found in known.items())
        return (sum(map(sum, known.values())) + 120.0) / (typical + 120.0)

    def _line(self, text: str) -> None:
        self._last = self._clock()
        width = len(str(self._total))
        self._say(f"[{self._done:{width}}/{self._total}] {text}")


def _typical(rule: str) -> float:
    seconds, cores = TYPICAL.get(rule, SHORT)
    return seconds * cores


def duration(seconds: float) -> str:
    """`4:15`, or `1:04:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
