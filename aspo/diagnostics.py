"""Metrics of the shaping term's effect on a batch, for a trainer to log every step.

They test the paper's explanation of its result (section 7): phi is zero on QA, and the QA gain comes from lower
variance. Metric names begin with `aspo/`; every value is a float.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aspo.advantage import ASPOConfig, shaping_shift, shaping_terms
from aspo.detection import StructuralFeatures
from aspo.groups import group_rows, grpo_advantage


@torch.no_grad()
def shaping_diagnostics(
    scores: torch.Tensor,
    index: Sequence,
    features: StructuralFeatures,
    is_math: torch.Tensor,
    config: ASPOConfig,
    epsilon: float = 1e-6,
    order: torch.Tensor | None = None,
) -> dict[str, float]:
    """Diagnostics of one batch.

    Args:
        scores: (B,) summed reward of each trajectory.
        index: (B,) group labels.
        features: as for `compute_aspo_advantage`.
        is_math: as for `compute_aspo_advantage`.
        config: as for `compute_aspo_advantage`.
        epsilon: as for `compute_aspo_advantage`.
        order: as for `compute_aspo_advantage`.

    Returns:
        fire/{term}/{math,qa}/{correct,wrong}: share of these trajectories in which the term is not zero, before it is
            scaled or permuted.
        shift_share: mean |shift| divided by mean (|A| + |shift|): phi's share of the signal.
        sign_flips: number of trajectories whose advantage changes sign.
        zero_variance_groups: number of groups with equal rewards; their whole gradient comes from phi.
        phi_only_share: share of the total |shaped advantage| that lies in such groups.
        variance_ratio/{math,qa}: variance of the shaped advantage divided by that of A; below 1, phi reduces variance.
        A metric whose denominator is zero (no such trajectory, no variance) is left out.
    """
    is_math = torch.as_tensor(is_math, dtype=torch.bool)
    groups = group_rows(index)
    advantage = grpo_advantage(scores, groups, epsilon, config.norm_by_std)
    shift = shaping_shift(advantage, scores, groups, features, is_math, config, order, epsilon)
    shaped = advantage + shift
    correct = scores >= config.correct_from
    metrics = {}
    for name, term in shaping_terms(features, is_math, config).items():
        for task, task_rows in (("math", is_math), ("qa", ~is_math)):
            for outcome, outcome_rows in (("correct", correct), ("wrong", ~correct)):
                rows = task_rows & outcome_rows
                if rows.any():
                    metrics[f"aspo/fire/{name}/{task}/{outcome}"] = float((term[rows] != 0).float().mean())
    for task, task_rows in (("math", is_math), ("qa", ~is_math)):
        variance = float(advantage[task_rows].var()) if task_rows.sum() > 1 else 0.0
        if variance > epsilon:
            metrics[f"aspo/variance_ratio/{task}"] = float(shaped[task_rows].var()) / variance
    equal_rewards = [rows for rows in groups if len(rows) > 1 and bool((scores[rows] == scores[rows[0]]).all())]
    total = float(shaped.abs().sum())
    metrics["aspo/shift_share"] = float(shift.abs().sum()) / max(float((advantage.abs() + shift.abs()).sum()), 1e-12)
    metrics["aspo/sign_flips"] = float(((advantage * shaped) < 0).sum())
    metrics["aspo/zero_variance_groups"] = float(len(equal_rewards))
    metrics["aspo/phi_only_share"] = sum(float(shaped[rows].abs().sum()) for rows in equal_rewards) / max(total, 1e-12)
    return metrics
