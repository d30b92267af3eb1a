"""Experimental arms, and how one inherits from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from tir.config.faults import Fault, Faults, not_among
from tir.schema import Model


class Arm(Model):
    """One experimental arm: an advantage estimator and its coefficients. Arms differ in nothing else."""

    estimator: Literal["grpo", "aspo"] = Field(description="grpo: verl's own; aspo: GRPO plus the shaping term")
    lam: float = Field(0.5, alias="lambda", ge=0, le=10, description="weight of phi")
    alpha: float = Field(1.0, ge=0, le=10, description="reward of python -> answer at the end")
    beta: float = Field(1.0, ge=0, le=10, description="penalty of python -> think")
    gamma: float = Field(0.5, ge=0, le=10, description="weight of an early first tool on math")
    psi_k: float = Field(5.0, ge=0, le=1000, description="decay of psi over the normalised offset")
    psi: Literal["exp", "sigmoid", "rational", "linear"] = "exp"
    mode: Literal["additive", "clipped", "centered"] = "additive"
    clip_kappa: float = Field(0.7, gt=0, lt=1, description="bound of the clipped shift, share of |A|")
    delta: float | None = Field(None, le=0, ge=-100, description="clipped: Lin & Xu's own shift")
    require_correct: bool = Field(False, description="shape correct trajectories only")

    @model_validator(mode="after")
    def _delta_is_read(self) -> Arm:
        if self.delta is not None and self.mode != "clipped":
            raise ValueError(f"only mode clipped reads delta {self.delta:g}, and mode is {self.mode}; write mode: clipped, or leave delta out")
        return self

    def coefficients(self) -> dict[str, Any]:
        """Arguments of `aspo.ASPOConfig`; empty for an estimator that reads none."""
        return self.model_dump(exclude={"estimator"}) if self.estimator == "aspo" else {}


def inherit(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve `base:` between arms; a missing or circular base is a fault of the arm that names it."""
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
            faults[name] = Fault((name, "base"), f"arms inherit in a circle: {' -> '.join((*chain, base))}")
            return own
        inherited = resolve(base, (*chain, base))
        return {**inherited, **own} if isinstance(inherited, Mapping) else own

    resolved = {name: resolve(name, (name,)) for name in arms}
    if faults:
        raise Faults(faults.values())
    return resolved
