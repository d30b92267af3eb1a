"""Which rows make an optimiser step, and how they are divided among processes and forward passes.

A step takes the next `batch_rows` rows of the epoch's order, whatever the number of GPUs. The loss of a step is the
mean over all its tokens, so it does not depend on how its rows are divided. They are divided so that every forward pass
has about the same number of tokens and none has more than fit into memory. Each process makes the same number of
passes, because collective operations need that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence

import torch


def row_lengths(rows) -> list[int]:
    """Tokens of each row of a data set, without reading the tokens."""
    import pyarrow.compute

    return pyarrow.compute.list_value_length(rows.data.column("input_ids")).to_pylist()


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """Order of the rows in an epoch, counted from 0: that of accelerate's `SeedableRandomSampler` in the Trainer."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def step_rows(rows: int, seed: int, epoch: int, batch_rows: int) -> list[list[int]]:
    """Row numbers of each step of an epoch; the last step takes the rows that are left."""
    order = epoch_order(rows, seed, epoch)
    return [order[start : start + batch_rows] for start in range(0, rows, batch_rows)]


def divide(rows: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Divide rows into parts with similar sums of lengths, largest sum first.

    The longest row goes to the part with the smallest sum, then the next longest one (LPT scheduling). If there are
    fewer rows than parts, the last parts hold ~row of the shortest row (a negative number): it adds no loss.
    """
    heap = [(0, part) for part in range(parts)]
    found: list[list[int]] = [[] for _ in range(parts)]
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        size, part = heapq.heappop(heap)
        found[part].append(row)
        heapq.heappush(heap, (size + lengths[row], part))
    order = sorted((-size, part) for size, part in heap)
    shortest = min(rows, key=lambda row: (lengths[row], row))
    return [found[part] or [~shortest] for _, part in order]


def passes(lengths: Sequence[int], steps: Sequence[Sequence[int]], processes: int, tokens: int) -> int:
    """Forward passes per step and process, so that no pass of any step has more than `tokens` tokens.

    A row that is longer than `tokens` gets a pass of its own.
    """
    largest = max(sum(min(lengths[row], tokens) for row in step) for step in steps)
    number = max(1, math.ceil(largest / (processes * tokens)))
    most = math.ceil(max(map(len, steps)) / processes)  # then each pass has one row
    while number < most and any(
        len(part) > 1 and sum(lengths[row] for row in part) > tokens
        for step in steps
        for part in divide(step, lengths, processes * number)
    ):
        number += 1
    return min(number, most)


class Batches:
    """Row numbers of each forward pass of one process: the batch sampler of the training data loader.

    Args:
        lengths: tokens of each row.
        batch_rows: rows per step.
        seed: seed of the order.
        passes: forward passes per step.
        rank, processes: number of this process, and of all.
        step: returns the number of finished steps of the run, which says in which epoch an iteration starts.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_rows: int,
        seed: int,
        passes: int,
        rank: int,
        processes: int,
        step: Callable[[], int],
    ):
        self._lengths, self._batch_rows, self._seed, self._passes = lengths, batch_rows, seed, passes
        self._rank, self._processes, self._step = rank, processes, step
        self._steps = math.ceil(len(lengths) / batch_rows)

    def __len__(self) -> int:
        return self._steps * self._passes

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._step() // self._steps
        for rows in step_rows(len(self._lengths), self._seed, epoch, self._batch_rows):
            parts = divide(rows, self._lengths, self._processes * self._passes)
            yield from parts[self._rank :: self._processes]
