"""Print measured values as one table, and time functions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        subject: the measured code and its settings.
        measure: the quantity, with its unit.
        value: the measured value.
        goal: the required value, e.g. `<= 25`; printed beside the value, never asserted.
    """

    subject: str
    measure: str
    value: float
    goal: str = ""


_WIDTHS = 76, 36, 9  # columns of subject, measure and value


def show(sections: Iterable[tuple[str, Iterable[Figure]]]) -> None:
    """Print a table of (title, figures) sections; each row is printed as soon as it is measured."""
    _row("", "measure", "value", "goal")
    for title, figures in sections:
        print(title, flush=True)
        for row in figures:
            _row(f"  {row.subject}", row.measure, _number(row.value), row.goal)


def _row(subject: str, measure: str, value: str, goal: str) -> None:
    subject_width, measure_width, value_width = _WIDTHS
    line = f"{subject:<{subject_width}}  {measure:<{measure_width}}  {value:>{value_width}}  {goal}"
    print(line.rstrip(), flush=True)


def _number(value: float) -> str:
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """Wall times of `repeats` calls after one warm-up call, sorted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return sorted(times)


def interleaved(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Sorted wall times of several functions, called in turn so that a busy machine affects all of them alike."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for number, function in enumerate(functions):
            started = time.perf_counter()
            function()
            times[number].append(time.perf_counter() - started)
    return [sorted(function_times) for function_times in times]


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile `share` (0 to 1) of a sorted list, without interpolation."""
    return values[min(len(values) - 1, int(share * len(values)))]
