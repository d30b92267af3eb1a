"""The study: arms compared with a baseline over many outcomes, and the phase diagram (docs/study.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tir.common.schema import Model, Name, Share, drop_nulls
from tir.config.faults import Fault, Faults

Measure = Literal[
    "accuracy",
    "forgotten",
    "bigram",
    "calls",
    "first_tool",
    "first_tool_share",
    "tokens",
    "truncated",
    "kl",
    "entropy",
]
SMALLEST_EFFECTS = {
    "accuracy": 0.05,
    "forgotten": 0.05,
    "bigram": 0.1,
    "calls": 0.1,
    "first_tool": 10.0,
    "first_tool_share": 0.05,
    "tokens": 5.0,
    "truncated": 0.05,
    "kl": 0.01,
    "entropy": 0.05,
}


class WorldPoint(Model):
    """What rethinking does in a world: two keys of `world.trajectories.habits`."""

    spoil: Share = Field(description="probability that rethinking replaces a right result by a wrong number")
    repair: Share = Field(description="probability that rethinking replaces a wrong result by the right one")


class Phase(Model):
    """The phase diagram: arms in worlds that differ in the value of rethinking."""

    worlds: Annotated[dict[Name, WorldPoint], BeforeValidator(drop_nulls)] = Field(
        min_length=2, description="worlds, from left to right in the figure; null removes one"
    )
    arms: list[Name] = Field(min_length=1, description="arms that are compared with study.baseline in every world")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([1, 2], min_length=1, description="seeds of these runs")
    benchmarks: list[Name] | None = Field(None, description="benchmarks; null: those of the study")


class Study(Model):
    """A comparison of arms with a baseline, in results/study/."""

    baseline: Name = Field("grpo", description="arm that the others are compared with")
    arms: list[Name] = Field(min_length=1, description="the other arms, in order")
    start: str = Field(
        "sft",
        description="model before RL; the measure `forgotten` counts its right answers that an arm lost",
        pattern=r"^sft(-\w+)?$",
    )
    benchmarks: list[Name] | None = Field(None, description="benchmarks; null: all standard ones")
    pilot_seeds: int = Field(2, ge=2, description="number of seeds, from the first of rl.seeds, that power.csv reads")
    planned_seeds: int = Field(5, ge=2, description="number of seeds for which power.csv computes the items needed")
    power: float = Field(0.8, gt=0.5, lt=1, description="probability with which the smallest effect must be found")
    smallest_effects: dict[Measure, Annotated[float, Field(gt=0)]] = Field(
        default=SMALLEST_EFFECTS,
        description="smallest difference of interest by measure: shares as fractions, bigrams and calls per "
        "trajectory, first_tool in characters, entropy in nats per token; a measure that is left out keeps its default",
    )
    phase: Phase | None = Field(None, description="the phase diagram, results/study/phase.png")

    @field_validator("smallest_effects")
    @classmethod
    def _all_measures(cls, value: dict[str, float]) -> dict[str, float]:
        return SMALLEST_EFFECTS | value

    @model_validator(mode="after")
    def _distinct(self) -> Study:
        repeated = [place for place, arm in enumerate(self.arms) if arm in (*self.arms[:place], self.baseline)]
        if repeated:
            raise Faults(
                Fault(("arms", place), f"{self.arms[place]} is here twice, or is the baseline; remove it")
                for place in repeated
            )
        return self
