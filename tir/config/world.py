"""The generated world and the model made for it (laptop scale). Defaults are those of tir/world/ and tir/tiny_model.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tir.config.faults import Fault, Faults
from tir.schema import Model, Share
from tir.world.problems import KINDS


class Made(Model):
    """A section whose defaults its makers have too."""

    def stated(self) -> dict[str, Any]:
        """What the configuration says itself, as JSON. The rest is left to the makers: a default added to them, or their
        order of drawing, is code."""
        return self.model_dump(mode="json", exclude_unset=True)


class Habits(Model):
    """How often the writers of trajectories do what."""

    think_after_tool: Share = Field(0.25, description="a thought, not the answer, follows the last result")
    verify: Share = Field(0.05, description="a Python answer is checked by a second call")
    fail_first: Share = Field(0.05, description="the first call is a mistake that the second mends")
    think_long: Share = Field(0.2, description="the first thought is a long one")
    think_short: Share = Field(0.25, description="the first thought is a bare word")


class Trajectories(Model):
    """What the supervised set holds."""

    rows: int = Field(4000, ge=1, le=1_000_000)
    mix: dict[Literal["python_only", "search_only", "no_tools", "mixed"], Share] = Field(
        default={"python_only": 0.5, "search_only": 0.44, "no_tools": 0.06}, description="share of each category; they add up to 1")
    two_hop: Share = Field(0.35, description="share of two-hop questions among search trajectories")
    problems: dict[Literal[*KINDS], Annotated[float, Field(ge=0)]] = Field(
        default={"story:1": 3, "story:2": 4, "story:3": 3, "solve:2": 2, "fraction:3": 2, "expand:3": 1, "nested:1": 2,
                 "nested:2": 3, "nested:3": 1, "remainder:1": 1, "remainder:2": 1},
        min_length=1, description="weight of each family:operations among Python trajectories")
    instruction: str = Field("Use tools.", description="the system prompt, stored in every row")
    habits: Habits = Habits()

    @model_validator(mode="after")
    def _weights(self) -> Trajectories:
        faults = []
        if abs(sum(self.mix.values()) - 1) > 1e-6:
            faults.append(Fault(("mix",), f"the shares add up to {sum(self.mix.values()):g}, not to 1"))
        if not sum(self.problems.values()):
            faults.append(Fault(("problems",), "every weight is 0"))
        if faults:
            raise Faults(faults)
        return self


class World(Made):
    """Size of the generated world."""

    seed: int = Field(0, ge=0)
    sft_clusters: int = Field(500, ge=1, description="clusters of entities that supervised trajectories ask about")
    rl_train_rows: int = Field(512, ge=2, description="half math and half QA")
    rl_validation_rows: int = Field(64, ge=2, description="half math and half QA")
    benchmark_rows: int = Field(40, ge=1, description="rows of each of the eight benchmarks")
    countries: int = Field(60, ge=2)
    trajectories: Trajectories = Trajectories()


class TinyModel(Made):
    """The model made by the workflow."""

    seed: int = Field(0, ge=0, description="of the initial weights")
    vocab_size: int = Field(700, ge=259, description="tokenizer entries, three control tokens and 256 bytes included")
    hidden: int = Field(192, ge=8)
    layers: int = Field(4, ge=1, le=1000)
    heads: int = Field(6, ge=1, le=1000)
    intermediate: int = Field(384, ge=8)
    max_positions: int = Field(1024, ge=16, description="longest sequence, tokens")
    initializer_range: float = Field(0.06, gt=0, le=10)
    rope_theta: float = Field(10000.0, gt=0)
