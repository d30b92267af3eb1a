"""Inputs: data files and test sets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tir.common.schema import Model, Task
from tir.config.faults import Fault, not_among
from tir.config.sources import Source


class Validation(Model):
    """The validation set of RL, sampled from the upstream test file."""

    rows: int = Field(50, ge=2, le=100_000, description="number of rows")
    select: Literal["stratified", "head"] = Field(
        "stratified", description="stratified: sample by ability; head: the first rows, which are all QA upstream"
    )
    decontaminate: bool = Field(True, description="drop rows whose question is in a benchmark")
    seed: int = Field(0, ge=0, description="seed of the sample")


class Data(Model):
    """Input files."""

    sft: Source = Field(description="supervised trajectories, Alpaca JSON")
    rl_train: Source = Field(description="RL training rows, Parquet")
    rl_validation: Source = Field(description="rows from which the validation set of RL is sampled, Parquet")
    corpus: Source = Field(description="passages of the search index, JSON Lines {id, contents}")
    prompt: str | None = Field(
        None, min_length=1, description="system prompt of RL and evaluation; null: the instruction in the SFT data"
    )
    prompt_sha256: str | None = Field(
        None, description="expected sha256 of the system prompt in the SFT data", pattern=r"^[0-9a-f]{64}$"
    )
    validation: Validation = Field(Validation(), description="validation set of RL")

    @model_validator(mode="after")
    def _formats(self) -> Data:
        formats = {"sft": "sharegpt", "rl_train": "search_r1", "rl_validation": "search_r1", "corpus": None}
        for name, known in formats.items():
            _check_format(getattr(self, name), (name, "format"), known)
        return self


def _check_format(source: Source, keys: tuple[str, ...], known: str | None) -> None:
    if source.format not in (None, known):
        reason = f"{source.format!r}: not a format of this file, which may be " + (f"{known} or " if known else "")
        raise Fault(keys, f"{reason}null (Tool-Star's)", paste=(keys, known))


# Metrics in the score records of each task (tir/scoring/score.py).
METRICS = {
    "math": ("em", "f1", "acc", "math_equal", "judge"),
    "qa": ("em", "f1", "acc", "char_f1"),
    "web": ("em", "f1", "acc", "char_f1", "judge"),
}


class Benchmark(Model):
    """One test set."""

    label: str = Field(description="column title in tables")
    task: Task = Field(description="task, which determines tools and scoring")
    metric: Literal["em", "f1", "acc", "math_equal", "char_f1", "judge"] = Field(description="metric in tables")
    n: int = Field(30, ge=1, le=1_000_000, description="number of items, from the head of the file")
    standard: bool = Field(True, description="a column of every table that names no benchmarks")
    kept_from_validation: bool = Field(
        True,
        description="exclude its questions from RL's validation rows; set false for a benchmark added later, "
        "or every arm is trained again",
    )
    source: Source = Field(description="source of the file, JSON Lines {question, answer}")

    @model_validator(mode="after")
    def _format_of_its_file(self) -> Benchmark:
        _check_format(self.source, ("source", "format"), "search_r1")
        return self

    @model_validator(mode="after")
    def _metric_of_the_task(self) -> Benchmark:
        if self.metric not in METRICS[self.task]:
            raise not_among(
                ("metric",), self.metric, METRICS[self.task], f"scores of {self.task} have no {self.metric}"
            )
        return self
