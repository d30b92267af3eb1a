r"""ASPO: GRPO's advantage plus a structural shaping term.

    A~(tau) = A_GRPO(tau) + lam * phi(tau)                                                       (paper, equation 1)

    phi(tau) =   alpha * 1[tau ends in <python -> answer>]                                       (paper, equation 2)
               - beta  * 1[tau contains <python -> think>]
               + gamma * 1[task(tau) = math] * psi_early(tau)

The paper leaves psi_early open ("a smooth decreasing function of the character offset of the first tool tag") and
gives one constant, k = 5. With raw offsets (medians 776 and 1016 characters) any smooth psi with k = 5 underflows to
zero, so the offset is normalised by the length of the policy's text: u = offset / policy characters, in [0, 1], and
`psi_k` is the decay over u. Lin & Xu use the letter k for their clip ratio; here that is `clip_kappa`.

What is and is not true of phi. Equation 1 adds lam * phi to the advantage of every token the policy wrote, so its
expected gradient is that of the objective E[normalised reward + lam * phi]: phi is a reward in all but name, and it
moves the optimum whenever phi differs between trajectories of equal reward, or outweighs a reward gap. It is not
potential-based (it depends on the whole trajectory and does not telescope), so the invariance theorem for reward
shaping does not apply. Two weaker statements do hold and are tested: in `clipped` mode the shift never exceeds
clip_kappa * |A| with clip_kappa < 1, so no advantage changes its sign (Lin & Xu, section 3.3); in `centered` mode phi
has zero mean within a group, so a group's mean advantage stays zero and phi adds no drift common to its members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from aspo.detection import StructuralFeatures

_RANGES = {
    "lam": (0.0, 10.0), "alpha": (0.0, 10.0), "beta": (0.0, 10.0), "gamma": (0.0, 10.0), "psi_k": (0.0, 1000.0),
    "clip_kappa": (0.0, 1.0), "correct_from": (-10.0, 10.0), "delta": (-100.0, 0.0),
}
_CHOICES = {"psi": ("exp", "sigmoid", "rational", "linear"), "mode": ("additive", "clipped", "centered")}


@dataclass(frozen=True)
class ASPOConfig:
    """Coefficients of the shaping term. Defaults are the paper's (section 5.6).

    Attributes:
        lam: weight of phi against A_GRPO, which has unit variance within a group.
        alpha: reward of a trajectory that ends python -> answer.
        beta: penalty of a trajectory that contains python -> think.
        gamma: weight of an early first tool on math.
        psi_k: decay of psi over the normalised offset u.
        psi: shape of psi.
        mode: `additive` (equation 1), `clipped` (Lin & Xu: correct code-bearing responses only, |shift| <=
            clip_kappa |A|), `centered` (phi minus its group mean).
        clip_kappa: bound of the clipped shift as a share of |A|, in (0, 1).
        require_correct: shape correct trajectories only.
        norm_by_std: divide by the group's standard deviation (GRPO) or not (Dr. GRPO).
        correct_from: a summed reward of at least this counts as correct (the paper's F1 >= 0.5 for QA). Bonuses that the
            reward adds for format or tools count too.
        delta: in `clipped` mode, use Lin & Xu's own shift delta * (p - mean p) / mean L in place of phi; negative.
    """

    lam: float = 0.5
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.5
    psi_k: float = 5.0
    psi: Literal["exp", "sigmoid", "rational", "linear"] = "exp"
    mode: Literal["additive", "clipped", "centered"] = "additive"
    clip_kappa: float = 0.7
    require_correct: bool = False
    norm_by_std: bool = True
    correct_from: float = 0.5
    delta: float | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES and value is not None:
                low, high = _RANGES[field.name]
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not low <= value <= high:
                    raise ValueError(f"ASPOConfig.{field.name} = {value!r}: must be a number in [{low:g}, {high:g}]")
            if field.name in _CHOICES and value not in _CHOICES[field.name]:
                raise ValueError(f"ASPOConfig.{field.name} = {value!r}: must be one of {', '.join(_CHOICES[field.name])}")
            if field.name in ("require_correct", "norm_by_std") and not isinstance(value, bool):
                raise ValueError(f"ASPOConfig.{field.name} = {value!r}: must be true or false")
        if not 0.0 < self.clip_kappa < 1.0:
            raise ValueError(f"ASPOConfig.clip_kappa = {self.clip_kappa!r}: must lie strictly between 0 and 1")
        if self.delta is not None and self.mode != "clipped":
            raise ValueError(f"ASPOConfig.delta = {self.delta!r}: only mode 'clipped' reads it, mode is {self.mode!r}")


# --- the terms of equation 2, each (B,) ----------------------------------------------------------------------------


def closure_term(features: StructuralFeatures, config: ASPOConfig) -> torch.Tensor:
    """alpha * 1[tau ends in python -> answer]."""
    return config.alpha * features.ends_python_answer.float()


def backtrack_term(features: StructuralFeatures, config: ASPOConfig) -> torch.Tensor:
    """-beta * 1[tau contains python -> think]."""
    return -config.beta * features.has_python_think.float()


def early_tool_term(features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig) -> torch.Tensor:
    """gamma * 1[task = math] * psi_early; zero without a tool call."""
    u = (features.first_tool_offset / features.policy_chars.clamp(min=1)).clamp(0.0, 1.0)
    applies = torch.as_tensor(is_math, dtype=torch.bool, device=u.device) & (features.first_tool_offset >= 0)
    return config.gamma * psi_early(u, config) * applies.float()


def psi_early(u: torch.Tensor, config: ASPOConfig) -> torch.Tensor:
    """Decreasing weight of the normalised first-tool offset u in [0, 1]; psi(0) = 1 (0.99 for the sigmoid at k = 5).

    exp: e^(-k u); rational: 1 / (1 + k u); linear: 1 - u; sigmoid: 1 / (1 + e^(2k (u - 1/2))).
    """
    k = config.psi_k
    if config.psi == "exp":
        return torch.exp(-k * u)
    if config.psi == "rational":
        return 1.0 / (1.0 + k * u)
    if config.psi == "linear":
        return 1.0 - u
    return torch.sigmoid(-2.0 * k * (u - 0.5))


def shaping_terms(features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig) -> dict[str, torch.Tensor]:
    """The three terms of phi by name, each (B,) float: `closure`, `backtrack`, `early_tool`."""
    return {
        "closure": closure_term(features, config),
        "backtrack": backtrack_term(features, config),
        "early_tool": early_tool_term(features, is_math, config),
    }


def shaping_term(features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig) -> torch.Tensor:
    """phi, (B,) float (equation 2)."""
    return sum(shaping_terms(features, is_math, config).values())


# --- the shaped advantage ------------------------------------------------------------------------------------------


def grpo_advantage(scores: torch.Tensor, groups: list[torch.Tensor], epsilon: float, norm_by_std: bool) -> torch.Tensor:
    """A_GRPO, (B,): each score minus its group's mean, over its unbiased standard deviation plus epsilon.

    A group of one keeps its score (mean 0, deviation 1), as verl and Tool-Star do. Mean and deviation are taken group by
    group, because a batched deviation rounds differently in double precision; the rest is done for all rows at once.
    """
    advantage = torch.empty_like(scores)
    alone = [rows for rows in groups if len(rows) == 1]
    if alone:
        rows = torch.cat(alone)
        # single precision whatever the rewards are, as verl has it: 1 + epsilon rounds differently in double
        advantage[rows] = scores[rows] / (torch.ones(()) + epsilon) if norm_by_std else scores[rows]
    several = [rows for rows in groups if len(rows) > 1]
    if several:
        rows, sizes = torch.cat(several), [len(members) for members in several]
        ordered = scores[rows]
        members = ordered.split(sizes)
        each = torch.tensor(sizes, device=scores.device)
        relative = ordered - torch.stack([group.mean() for group in members]).repeat_interleave(each)
        if norm_by_std:
            relative = relative / (torch.stack([group.std() for group in members]) + epsilon).repeat_interleave(each)
        advantage[rows] = relative
    return advantage


def group_rows(index: Sequence) -> list[torch.Tensor]:
    """Rows of each group, in row order. Groups need not be contiguous: verl's balancing reorders a batch."""
    rows: dict = {}
    for row, label in enumerate(index.tolist() if hasattr(index, "tolist") else index):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(members) for members in rows.values()]


def shaping_shift(advantage: torch.Tensor, scores: torch.Tensor, groups: list[torch.Tensor],
                  features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig) -> torch.Tensor:
    """What is added to A_GRPO under the configured mode, (B,)."""
    correct = scores >= config.correct_from
    if config.mode == "clipped":
        eligible = correct & (features.n_python > 0)
        raw = (_relative_position(eligible, groups, features) * config.delta if config.delta is not None
               else shaping_term(features, is_math, config))
        bound = config.clip_kappa * advantage.abs()
        return torch.minimum(torch.maximum(config.lam * raw, -bound), bound) * eligible
    phi = shaping_term(features, is_math, config)
    if config.require_correct:
        phi = phi * correct
    if config.mode == "centered":
        phi = phi.clone()
        for rows in groups:
            phi[rows] -= phi[rows].mean()
    return config.lam * phi


def _relative_position(eligible: torch.Tensor, groups: list[torch.Tensor], features: StructuralFeatures) -> torch.Tensor:
    """(p_i - mean p) / mean L over a group's eligible members, in characters; zero elsewhere (Lin & Xu, section 3.3).

    p is where the code begins; a search before it does not count.
    """
    position = torch.zeros(len(eligible), device=eligible.device)
    for rows in groups:
        members = rows[eligible[rows]]
        if len(members):
            p = features.first_python_offset[members].float()
            position[members] = (p - p.mean()) / features.policy_chars[members].float().mean().clamp(min=1.0)
    return position


@torch.no_grad()
def compute_aspo_advantage(token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence,
                           features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig,
                           epsilon: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """The shaped advantage, broadcast over policy tokens.

    Args:
        token_level_rewards: (B, L) rewards, summed over a row to its score.
        response_mask: (B, L), 1 on policy tokens.
        index: (B,) group label of each row (its prompt).
        features: structural features, fields (B,).
        is_math: (B,) whether the row's task is math.
        config: coefficients.
        epsilon: added to the group's deviation.

    Returns:
        (advantages, returns), both (B, L) and equal, as outcome-supervised estimators return them. With `lam` 0
        they are bit-identical to verl's `compute_grpo_outcome_advantage`.
    """
    scores = token_level_rewards.sum(dim=-1)
    groups = group_rows(index)
    advantage = grpo_advantage(scores, groups, epsilon, config.norm_by_std)
    if config.lam:
        features = features.to(scores.device)
        advantage = advantage + shaping_shift(advantage, scores, groups, features, is_math, config).to(advantage.dtype)
    advantages = advantage.unsqueeze(-1) * response_mask
    return advantages, advantages
