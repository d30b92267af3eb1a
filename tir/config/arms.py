"""Experimental arms, and their inheritance by `base:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from tir.common.schema import Model
from tir.config.dpo import Schedule
from tir.config.faults import Fault, Faults, not_among
from tir.config.params import without


class Arm(Model):
    """One experimental arm: an advantage estimator and its coefficients, and whether its policy goes through DPO."""

    estimator: Literal["grpo", "aspo"] = Field(description="grpo: verl's estimator; aspo: GRPO plus the shaping term")
    lam: float = Field(0.5, alias="lambda", ge=0, le=10, description="weight of phi")
    alpha: float = Field(1.0, ge=0, le=10, description="reward of python -> answer at the end")
    beta: float = Field(1.0, ge=0, le=10, description="penalty of python -> think")
    gamma: float = Field(0.5, ge=0, le=10, description="weight of an early first tool on math")
    psi_k: float = Field(5.0, ge=0, le=1000, description="decay of psi over the normalised offset")
    psi: Literal["exp", "sigmoid", "rational", "linear"] = Field(
        "exp", description="function by which the reward of an early first tool decreases with the offset"
    )
    mode: Literal["additive", "clipped", "centered", "reward"] = Field(
        "additive",
        description="additive: add lambda times phi to the advantage; clipped: bound it by a fraction of |A|; "
        "centered: subtract its mean over the group; reward: add it to the reward, before the reward is normalised",
    )
    clip_kappa: float = Field(0.7, gt=0, lt=1, description="clipped: bound of the shift, as a fraction of |A|")
    delta: float | None = Field(None, le=0, ge=-100, description="clipped: shift of Lin & Xu's original form")
    require_correct: bool = Field(False, description="shape correct trajectories only")
    permuted: bool = Field(
        False, description="a placebo: exchange the values of phi at random between the trajectories of a batch"
    )
    tasks: Literal["math", "all"] = Field("math", description="tasks with the reward of an early first tool")
    scale: Literal["none", "group"] = Field(
        "none", description="group: standardise each term of phi within its group, before alpha, beta and gamma"
    )
    dpo: Schedule | None = Field(
        None, description="DPO (section `dpo`) of the policy that the RL of the arm's `base` made"
    )

    @model_validator(mode="after")
    def _delta_is_read(self) -> Arm:
        if self.delta is not None and self.mode != "clipped":
            raise ValueError(
                f"delta {self.delta:g} has an effect only with mode clipped, but mode is {self.mode}; write mode: "
                "clipped, or remove delta"
            )
        if self.delta is not None and (unread := _LATER - _unused(self)):
            raise ValueError(
                f"delta {self.delta:g} replaces phi, so {', '.join(sorted(unread))} has no effect; remove one of them"
            )
        return self


# Coefficients that were added after runs had been recorded.
_LATER = {"permuted", "tasks", "scale"}


def coefficients(arm: Arm) -> dict[str, Any]:
    """What the estimator reads of an arm, for the parameters of its runs.

    Coefficients in `_LATER` are left out at their defaults, so the runs of older arms keep their parameters.
    """
    return without(arm, "estimator", "dpo", *_unused(arm))


def _unused(arm: Arm) -> set[str]:
    return {name for name in _LATER if getattr(arm, name) == Arm.model_fields[name].default}


def inherit(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Arms with `base:` replaced by the keys of that arm; raises `Faults` for a missing or circular base."""
    faults: dict[str, Fault] = {}

    def resolve(name: str, chain: tuple[str, ...]) -> Any:
        arm = arms[name]
        if not isinstance(arm, Mapping) or "base" not in arm:
            return arm
        base = arm["base"]
        own = {key: value for key, value in arm.items() if key != "base"}
        if not isinstance(base, str) or base not in arms:
            faults[name] = not_among((name, "base"), base, arms, f"{base!r} is not an arm")
            return own
        if base in chain:
            faults[name] = Fault((name, "base"), f"circular inheritance: {' -> '.join((*chain, base))}")
            return own
        inherited = resolve(base, (*chain, base))
        if isinstance(own.get("dpo"), Mapping):
            own["dpo"] = {"rl": base, **own["dpo"]}
        return {**inherited, **own} if isinstance(inherited, Mapping) else own

    resolved = {name: resolve(name, (name,)) for name in arms}
    if faults:
        raise Faults(faults.values())
    return resolved
