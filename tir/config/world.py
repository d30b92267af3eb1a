"""The generated world and the model made for it (laptop scale)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tir.common.schema import Model, Share
from tir.config.faults import Fault, Faults

# Problem families of tir/world/problems.py, each with a number of operations.
ProblemKind = Literal[
    "story:1",
    "story:2",
    "story:3",
    "solve:2",
    "fraction:3",
    "expand:3",
    "nested:1",
    "nested:2",
    "nested:3",
    "remainder:1",
    "remainder:2",
    "remainder:3",
]


class Habits(Model):
    """How often the generated trajectories choose well and badly. docs/world.md has the success rate of each choice."""

    think_short: Share = Field(0.15, description="math: probability that the first thought is one word")
    think_long: Share = Field(
        0.3, description="math: probability that the first thought is long and does the first step in the head"
    )
    slip: Share = Field(0.8, description="math: probability that a step in the head is wrong, and the program with it")
    fail_first: Share = Field(
        0.04, description="math: probability that the first call fails and the second corrects it"
    )
    check: Share = Field(
        0.04, description="math: probability that a second program checks the first; its result counts"
    )
    rethink_easy: Share = Field(
        0.25, description="math, one operation: probability that a thought, not the answer, follows the result"
    )
    rethink_hard: Share = Field(0.6, description="math, more operations: the same")
    spoil: Share = Field(0.9, description="math: probability that rethinking replaces a right result by a wrong number")
    repair: Share = Field(
        0.05, description="math: probability that rethinking replaces a wrong result by the right one"
    )
    mental_error: Share = Field(0.7, description="math: probability that an answer without a tool is wrong")
    hasty_one_hop: Share = Field(
        0.3, description="QA, one hop: probability that the first search does not name the entity"
    )
    hasty_two_hop: Share = Field(0.6, description="QA, two hops: the same")
    recover: Share = Field(
        0.15, description="QA: probability that a good search follows such a search; otherwise a wrong guess"
    )
    guess_share: Share = Field(0.3, description="fraction of questions among the trajectories without tools")
    guess_error: Share = Field(0.9, description="QA: probability that an answer without a search is wrong")


class TrajectorySettings(Model):
    """The generated SFT data."""

    rows: int = Field(4000, ge=1, le=1_000_000, description="number of trajectories")
    mix: dict[Literal["python_only", "search_only", "no_tools", "mixed"], Share] = Field(
        default={"python_only": 0.67, "search_only": 0.24, "no_tools": 0.09},
        description="fraction of each category; the sum must be 1",
    )
    two_hop: Share = Field(0.3, description="fraction of two-hop questions among search trajectories")
    problems: dict[ProblemKind, Annotated[float, Field(ge=0)]] = Field(
        default={
            "story:1": 2,
            "story:2": 4,
            "story:3": 3,
            "solve:2": 2,
            "fraction:3": 2,
            "nested:1": 1,
            "nested:2": 3,
            "remainder:1": 1,
            "remainder:2": 1,
        },
        min_length=1,
        description="weight of each family:operations among Python trajectories",
    )
    instruction: str = Field("Use tools.", description="system prompt in every row")
    habits: Habits = Field(Habits(), description="probabilities of patterns in the trajectories")

    @model_validator(mode="after")
    def _weights(self) -> TrajectorySettings:
        faults = []
        if abs(sum(self.mix.values()) - 1) > 1e-6:
            faults.append(Fault(("mix",), f"the sum of the fractions is {sum(self.mix.values()):g}, but must be 1"))
        if not sum(self.problems.values()):
            faults.append(Fault(("problems",), "all weights are 0; at least one must be positive"))
        if faults:
            raise Faults(faults)
        return self


class WorldSettings(Model):
    """Size of the generated world."""

    seed: int = Field(0, ge=0, description="seed of the world")
    sft_clusters: int = Field(300, ge=1, description="clusters of five entities each, for questions of the SFT data")
    rl_train_rows: int = Field(512, ge=2, description="rows of RL training, half math and half QA")
    rl_validation_rows: int = Field(64, ge=2, description="rows of RL validation, half math and half QA")
    benchmark_rows: int = Field(40, ge=1, description="rows of each of the eight benchmarks")
    countries: int = Field(
        300,
        ge=2,
        le=340,
        description="number of countries; if they are few, a model memorises their names instead of copying them",
    )
    trajectories: TrajectorySettings = Field(TrajectorySettings(), description="the generated SFT data")


class TinyModelSettings(Model):
    """The tiny model that the workflow makes."""

    seed: int = Field(0, ge=0, description="seed of the initial weights")
    vocab_size: int = Field(
        1024, ge=259, description="number of embeddings: the vocabulary, with three control tokens and 256 bytes"
    )
    ranks: str | None = Field(
        None,
        description="file with the vocabulary to use, in tiktoken's format; null: train one on the run's text",
    )
    hidden: int = Field(192, ge=8, description="hidden size of the transformer")
    layers: int = Field(4, ge=1, le=1000, description="transformer blocks")
    heads: int = Field(6, ge=1, le=1000, description="attention heads; hidden / heads is 32, 64, 96 or 128")
    kv_heads: int | None = Field(None, ge=1, description="key-value heads; null: as many as attention heads")
    intermediate: int = Field(384, ge=8, description="width of the feed-forward layers")
    max_positions: int = Field(1024, ge=16, description="maximum sequence length, tokens")
    copying: bool = Field(
        False,
        description="initialise two attention heads that copy what followed an earlier occurrence of a token; a model "
        "this small otherwise spends most of its training on learning to copy",
    )
    initializer_range: float = Field(
        0.06,
        gt=0,
        le=10,
        description="standard deviation of the initial weights; with the usual 0.02, a model this narrow needs several "
        "times more steps to learn to copy",
    )
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary position embedding")

    @model_validator(mode="after")
    def _room_for_copying(self) -> TinyModelSettings:
        if self.copying and min(self.layers, self.heads) < 2:
            raise ValueError("copying: true needs two layers and two heads or more")
        return self
