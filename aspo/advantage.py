r"""ASPO: GRPO's advantage plus a structural shaping term.

    A~(tau) = A_GRPO(tau) + lam * phi(tau)                                                       (paper, equation 1)

    phi(tau) =   alpha * 1[tau ends in <python -> answer>]                                       (paper, equation 2)
               - beta  * 1[tau contains <python -> think>]
               + gamma * 1[task(tau) = math] * psi_early(tau)

The paper leaves psi_early open ("a smooth decreasing function of the character offset of the first tool tag") and
gives one constant, k = 5. With raw offsets (medians 776 and 1016 characters) any smooth psi with k = 5 underflows to
zero, so the offset is normalised by the length of the policy's text: u = offset / policy characters, in [0, 1], and
`psi_k` is the decay over u. Lin & Xu use the letter k for their clip ratio; here that is `clip_kappa`.

Properties of phi. Equation 1 adds lam * phi to the advantage of every policy token, so its expected gradient is that of
the objective E[normalised reward + lam * phi]. Phi therefore acts as a reward: it moves the optimum whenever it differs
between trajectories of equal reward, or outweighs a reward gap. Phi is not potential-based (it depends on the whole
trajectory and does not telescope), so the invariance theorem for reward shaping does not apply. Two weaker properties
hold and are tested. In `clipped` mode the shift never exceeds clip_kappa * |A| with clip_kappa < 1, so no advantage
changes its sign (Lin & Xu, section 3.3). In `centered` mode phi has zero mean within a group, so the group's mean
advantage stays zero.

Controls. Four options answer what the paper's comparison with GRPO leaves open. `mode` `reward` adds lam * phi to the
reward, before GRPO's normalisation. `permuted` gives each trajectory the phi of another one of the batch: the same
values, without their content. `tasks` `all` drops the indicator of math. `scale` `group` gives every term unit spread
within its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from aspo.detection import StructuralFeatures
from aspo.groups import group_rows, grpo_advantage, standardised

_RANGES = {
    "lam": (0.0, 10.0),
    "alpha": (0.0, 10.0),
    "beta": (0.0, 10.0),
    "gamma": (0.0, 10.0),
    "psi_k": (0.0, 1000.0),
    "clip_kappa": (0.0, 1.0),
    "correct_from": (-10.0, 10.0),
    "delta": (-100.0, 0.0),
}
_CHOICES = {
    "psi": ("exp", "sigmoid", "rational", "linear"),
    "mode": ("additive", "clipped", "centered", "reward"),
    "tasks": ("math", "all"),
    "scale": ("none", "group"),
}


@dataclass(frozen=True)
class ASPOConfig:
    """Coefficients of the shaping term. Defaults are the paper's (section 5.6).

    Attributes:
        lam: weight of phi relative to A_GRPO, which has unit variance within a group.
        alpha: bonus for a trajectory that ends python -> answer.
        beta: penalty for a trajectory that contains python -> think.
        gamma: weight of the bonus for an early first tool call in a math task.
        psi_k: decay rate of psi over the normalised offset u.
        psi: shape of psi.
        mode: `additive` (equation 1), `clipped` (Lin & Xu: correct code-bearing responses only, |shift| <=
            clip_kappa |A|), `centered` (phi minus its group mean), `reward` (lam * phi is added to the reward, before
            it is normalised in its group).
        clip_kappa: bound of the clipped shift as a share of |A|, in (0, 1).
        require_correct: shape correct trajectories only.
        norm_by_std: divide by the group's standard deviation (GRPO) or not (Dr. GRPO).
        correct_from: a trajectory is correct if its summed reward is at least this (the paper's F1 >= 0.5 for QA). The
            sum includes bonuses for format or tool use.
        delta: negative number; in `clipped` mode, replaces phi by Lin & Xu's shift delta * (p - mean p) / mean L.
        permuted: a placebo: the values of phi are exchanged at random between the trajectories of a batch.
        tasks: tasks with the early-tool term, `math` (equation 2) or `all`.
        scale: `group` standardises each term within its group before its coefficient: mean 0 and deviation 1, or 0
            where the term does not vary.

    Raises `ValueError` for a value of the wrong type or out of range, for `delta` without `clipped`, and for options of
    phi together with `delta`, which replaces phi.
    """

    lam: float = 0.5
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.5
    psi_k: float = 5.0
    psi: Literal["exp", "sigmoid", "rational", "linear"] = "exp"
    mode: Literal["additive", "clipped", "centered", "reward"] = "additive"
    clip_kappa: float = 0.7
    require_correct: bool = False
    norm_by_std: bool = True
    correct_from: float = 0.5
    delta: float | None = None
    permuted: bool = False
    tasks: Literal["math", "all"] = "math"
    scale: Literal["none", "group"] = "none"

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES and value is not None:
                low, high = _RANGES[field.name]
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not low <= value <= high:
                    raise ValueError(f"ASPOConfig.{field.name} = {value!r}: must be a number in [{low:g}, {high:g}]")
            if field.name in _CHOICES and value not in _CHOICES[field.name]:
                raise ValueError(
                    f"ASPOConfig.{field.name} = {value!r}: must be one of {', '.join(_CHOICES[field.name])}"
                )
            if field.name in ("require_correct", "norm_by_std", "permuted") and not isinstance(value, bool):
                raise ValueError(f"ASPOConfig.{field.name} = {value!r}: must be true or false")
        if not 0.0 < self.clip_kappa < 1.0:
            raise ValueError(f"ASPOConfig.clip_kappa = {self.clip_kappa!r}: must lie strictly between 0 and 1")
        if self.delta is not None and self.mode != "clipped":
            raise ValueError(
                f"ASPOConfig.delta = {self.delta!r}: only mode 'clipped' uses delta, and mode is {self.mode!r}; "
                "set mode to 'clipped' or leave delta out"
            )
        if self.delta is not None and (self.permuted or self.tasks != "math" or self.scale != "none"):
            raise ValueError(
                f"ASPOConfig.delta = {self.delta!r}: replaces phi, so permuted, tasks and scale would have no effect; "
                "leave them or delta out"
            )


# --- the terms of equation 2, each (B,) ----------------------------------------------------------------------------


def closure_term(features: StructuralFeatures, config: ASPOConfig) -> torch.Tensor:
    """alpha * 1[tau ends in python -> answer]."""
    return config.alpha * features.ends_python_answer.float()


def backtrack_term(features: StructuralFeatures, config: ASPOConfig) -> torch.Tensor:
    """-beta * 1[tau contains python -> think]."""
    return -config.beta * features.has_python_think.float()


def early_tool_term(features: StructuralFeatures, is_math: torch.Tensor, config: ASPOConfig) -> torch.Tensor:
    """gamma * 1[task = math] * psi_early, without the indicator if `tasks` is `all`; zero without a tool call."""
    u = (features.first_tool_offset / features.policy_chars.clamp(min=1)).clamp(0.0, 1.0)
    applies = features.first_tool_offset >= 0
    if config.tasks == "math":
        applies = applies & torch.as_tensor(is_math, dtype=torch.bool, device=u.device)
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


def phi_of_batch(
    features: StructuralFeatures,
    is_math: torch.Tensor,
    groups: list[torch.Tensor],
    config: ASPOConfig,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """phi with the options that need the whole batch, (B,): `scale` by group, then `permuted` by `order`.

    Args:
        groups: row numbers of each group.
        order: (B,), the row whose phi each row gets (see `placebo_order`); needed if `permuted`.
    """
    terms = shaping_terms(features, is_math, config)
    if config.scale == "group":
        weights = {"closure": config.alpha, "backtrack": config.beta, "early_tool": config.gamma}
        terms = {name: weights[name] * standardised(term, groups) for name, term in terms.items()}
    phi = sum(terms.values())
    if not config.permuted:
        return phi
    if order is None:
        raise ValueError("ASPOConfig.permuted = True: needs an order of the rows, from `placebo_order`")
    return phi[order.to(phi.device)]


def placebo_order(rows: int, seed: int, step: int) -> torch.Tensor:
    """A permutation of row numbers, (rows,), that follows from the seed of the run and the number of the step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randperm(rows, generator=generator)


# --- the shaped advantage ------------------------------------------------------------------------------------------


def shaping_shift(
    advantage: torch.Tensor,
    scores: torch.Tensor,
    groups: list[torch.Tensor],
    features: StructuralFeatures,
    is_math: torch.Tensor,
    config: ASPOConfig,
    order: torch.Tensor | None = None,
    epsilon: float = 1e-6,
) -> torch.Tensor:
    """The term added to A_GRPO in the configured mode, (B,); arguments as for `compute_aspo_advantage`."""
    correct = scores >= config.correct_from
    if config.mode == "clipped":
        eligible = correct & (features.n_python > 0)
        raw = (
            _relative_position(eligible, groups, features) * config.delta
            if config.delta is not None
            else phi_of_batch(features, is_math, groups, config, order)
        )
        bound = config.clip_kappa * advantage.abs()
        return torch.minimum(torch.maximum(config.lam * raw, -bound), bound) * eligible
    phi = phi_of_batch(features, is_math, groups, config, order)
    if config.require_correct:
        phi = phi * correct
    if config.mode == "reward":
        shaped = scores + (config.lam * phi).to(scores.dtype)
        return grpo_advantage(shaped, groups, epsilon, config.norm_by_std) - advantage
    if config.mode == "centered":
        phi = phi.clone()
        for rows in groups:
            phi[rows] -= phi[rows].mean()
    return config.lam * phi


def _relative_position(
    eligible: torch.Tensor, groups: list[torch.Tensor], features: StructuralFeatures
) -> torch.Tensor:
    """(p_i - mean p) / mean L over a group's eligible members, in characters; zero elsewhere (Lin & Xu, section 3.3).

    p is the offset of the first `<python>`; a `<search>` before it is ignored.
    """
    position = torch.zeros(len(eligible), device=eligible.device)
    for rows in groups:
        members = rows[eligible[rows]]
        if len(members):
            p = features.first_python_offset[members].float()
            position[members] = (p - p.mean()) / features.policy_chars[members].float().mean().clamp(min=1.0)
    return position


@torch.no_grad()
def compute_aspo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence,
    features: StructuralFeatures,
    is_math: torch.Tensor,
    config: ASPOConfig,
    epsilon: float = 1e-6,
    order: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The shaped advantage, broadcast over policy tokens.

    Args:
        token_level_rewards: (B, L) rewards; a row's score is their sum.
        response_mask: (B, L), 1 on policy tokens.
        index: (B,) group label of each row (its prompt).
        features: structural features; each field is (B,).
        is_math: (B,) bool; true where the row's task is math.
        config: coefficients.
        epsilon: added to the group's standard deviation.
        order: (B,), for `permuted`: the row whose phi each row gets.

    Returns:
        (advantages, returns), both (B, L) and equal, as outcome-supervised estimators return them. With `lam` 0
        they are bit-identical to verl's `compute_grpo_outcome_advantage`.
    """
    scores = token_level_rewards.sum(dim=-1)
    groups = group_rows(index)
    advantage = grpo_advantage(scores, groups, epsilon, config.norm_by_std)
    if config.lam:
        features = features.to(scores.device)
        shift = shaping_shift(advantage, scores, groups, features, is_math, config, order, epsilon)
        advantage = advantage + shift.to(advantage.dtype)
    advantages = advantage.unsqueeze(-1) * response_mask
    return advantages, advantages
