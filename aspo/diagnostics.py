"""What the shaping term does to a batch, in numbers a trainer logs every step.

They test the paper's own explanation of its result: that phi is silent on QA, and that the QA gain is a reduction of
variance (section 7). Names are `aspo/...`; every value is a float.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aspo.advantage import ASPOConfig, grpo_advantage, group_rows, shaping_shift, shaping_terms
from aspo.detection import StructuralFeatures


@torch.no_grad()
def shaping_diagnostics(scores: torch.Tensor, index: Sequence, features: StructuralFeatures, is_math: torch.Tensor,
                        config: ASPOConfig, epsilon: float = 1e-6) -> dict[str, float]:
    """Diagnostics of one batch.

    Args:
        scores: (B,) summed reward of each trajectory.
        index: (B,) group labels.
        features, is_math, config, epsilon: as for `compute_aspo_advantage`.

    Returns:
        fire/{term}/{math,qa}/{correct,wrong}: share of such trajectories in which the term is not zero.
        shift_share: mean |shift| over mean (|A| + |shift|), the part of the signal that is phi.
        sign_flips: trajectories whose advantage changes sign.
        zero_variance_groups: groups whose rewards are all equal, where the whole gradient is phi.
        phi_only_share: share of the total |shaped advantage| that such groups carry.
        variance_ratio/{math,qa}: variance of the shaped advantage over that of A; below 1, phi reduces variance.
        A rate over no trajectories, and a ratio to no variance, is left out.
    """
    is_math = torch.as_tensor(is_math, dtype=torch.bool)
    groups = group_rows(index)
    advantage = grpo_advantage(scores, groups, epsilon, config.norm_by_std)
    shift = shaping_shift(advantage, scores, groups, features, is_math, config)
    shaped = advantage + shift
    correct = scores >= config.correct_from
    metrics = {}
    for name, term in shaping_terms(features, is_math, config).items():
        for task, of_task in (("math", is_math), ("qa", ~is_math)):
            for outcome, of_outcome in (("correct", correct), ("wrong", ~correct)):
                chosen = of_task & of_outcome
                if chosen.any():
                    metrics[f"aspo/fire/{name}/{task}/{outcome}"] = float((term[chosen] != 0).float().mean())
    for task, of_task in (("math", is_math), ("qa", ~is_math)):
        plain = float(advantage[of_task].var()) if of_task.sum() > 1 else 0.0
        if plain > epsilon:
            metrics[f"aspo/variance_ratio/{task}"] = float(shaped[of_task].var()) / plain
    flat = [rows for rows in groups if len(rows) > 1 and bool((scores[rows] == scores[rows[0]]).all())]
    total = float(shaped.abs().sum())
    metrics["aspo/shift_share"] = float(shift.abs().sum()) / max(float((advantage.abs() + shift.abs()).sum()), 1e-12)
    metrics["aspo/sign_flips"] = float(((advantage * shaped) < 0).sum())
    metrics["aspo/zero_variance_groups"] = float(len(flat))
    metrics["aspo/phi_only_share"] = sum(float(shaped[rows].abs().sum()) for rows in flat) / max(total, 1e-12)
    return metrics
