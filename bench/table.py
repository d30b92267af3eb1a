"""Measured figures of one run as one table, whoever measured them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        subject: what was measured: the code, and its setting.
        measure: the quantity, with its unit.
        value: the figure.
        goal: the bar it is held against, e.g. `<= 25`; printed beside the figure, never asserted.
    """

    subject: str
    measure: str
    value: float
    goal: str = ""


_COLUMNS = 76, 36, 9  # of the longest subject, measure and value that are printed as they come


def show(parts: Iterable[tuple[str, Iterable[Figure]]]) -> None:
    """Print one table of several parts, each figure as soon as it is measured."""
    _row("", "measure", "value", "goal")
    for title, figures in parts:
        print(title, flush=True)
        for row in figures:
            _row(f"  {row.subject}", row.measure, _number(row.value), row.goal)


def _row(subject: str, measure: str, value: str, goal: str) -> None:
    of_subject, of_measure, of_value = _COLUMNS
    print(f"{subject:<{of_subject}}  {measure:<{of_measure}}  {value:>{of_value}}  {goal}".rstrip(), flush=True)


def _number(value: float) -> str:
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def seconds(function: Callable[[], object], repeats: int, warm: int = 1) -> list[float]:
    """Wall time of each of several calls, sorted."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return sorted(times)


def interleaved(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Wall times of several functions called in turn, so that a busy machine hits all of them alike; each sorted."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for number, function in enumerate(functions):
            started = time.perf_counter()
            function()
            times[number].append(time.perf_counter() - started)
    return [sorted(found) for found in times]


def quantile(ordered: Sequence[float], share: float) -> float:
    """A value of a sorted list by its rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
