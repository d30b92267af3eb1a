"""Groups of trajectories with the same prompt: their rows, GRPO's advantage, and values standardised within a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def group_rows(index: Sequence) -> list[torch.Tensor]:
    """Row numbers of each group, ascending. Groups need not be contiguous: verl's load balancing reorders a batch."""
    rows: dict = {}
    for row, label in enumerate(index.tolist() if hasattr(index, "tolist") else index):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(members) for members in rows.values()]


def grpo_advantage(scores: torch.Tensor, groups: list[torch.Tensor], epsilon: float, norm_by_std: bool) -> torch.Tensor:
    """A_GRPO, (B,): each score minus its group's mean, over its unbiased standard deviation plus epsilon.

    A group of one keeps its score (mean 0, deviation 1), as in verl and Tool-Star. Mean and deviation are computed per
    group, because a batched deviation rounds differently in double precision; all other steps are vectorised over rows.
    """
    advantage = torch.empty_like(scores)
    singletons = [rows for rows in groups if len(rows) == 1]
    if singletons:
        rows = torch.cat(singletons)
        # verl adds epsilon to 1 in single precision for every reward dtype; the sum rounds differently in double.
        advantage[rows] = scores[rows] / (torch.ones(()) + epsilon) if norm_by_std else scores[rows]
    larger = [rows for rows in groups if len(rows) > 1]
    if larger:
        rows, sizes = torch.cat(larger), [len(group) for group in larger]
        ordered = scores[rows]
        by_group = ordered.split(sizes)
        repeats = torch.tensor(sizes, device=scores.device)
        relative = ordered - torch.stack([group.mean() for group in by_group]).repeat_interleave(repeats)
        if norm_by_std:
            deviation = torch.stack([group.std() for group in by_group])
            relative = relative / (deviation + epsilon).repeat_interleave(repeats)
        advantage[rows] = relative
    return advantage


def standardised(term: torch.Tensor, groups: list[torch.Tensor]) -> torch.Tensor:
    """A term (B,) minus its group's mean, over its unbiased deviation there; 0 in a group where it is constant."""
    scaled = torch.zeros_like(term)
    for rows in groups:
        values = term[rows]
        if bool((values != values[0]).any()):
            scaled[rows] = (values - values.mean()) / values.std()
    return scaled
