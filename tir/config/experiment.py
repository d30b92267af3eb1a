"""The whole experiment: sections that refer to each other, and the one way to load it.

`load` turns the merged YAML that Snakemake hands over into a `Config`. An arm may inherit from another by `base:`, and
every arm is validated merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tir.config import references
from tir.config.arms import Arm, inherit
from tir.config.data import Benchmark, Data, Models
from tir.config.errors import render_errors
from tir.config.evaluation import Evaluation
from tir.config.faults import Faults
from tir.config.judge import Judge
from tir.schema import Model, Name, RunName
from tir.config.retrieval import Retrieval
from tir.config.tables import FullSize, Statistics, Table, TraceSet
from tir.config.tools import Tools
from tir.config.training import Rl, Sft
from tir.config.world import TinyModel, World
from tir.errors import ConfigError
from tir.presets import with_preset


class Config(Model):
    """The experiment."""

    device: Literal["cuda", "cpu"] = "cuda"
    preset: Literal["fixed", "upstream_rl", "upstream_eval", "upstream"] = Field(
        "fixed", description="conventions of the rollout, under what this configuration says itself; see tir/presets.py")
    data: Data
    benchmarks: dict[Name, Benchmark] = Field(min_length=1)
    world: World | None = None
    model: Models
    tiny_model: TinyModel | None = None
    tools: Tools = Tools()
    retrieval: Retrieval
    sft: Sft = Sft()
    sft_pilots: dict[RunName, dict[str, Any]] = Field(
        default={}, description="smaller runs: name -> keys of `sft` that differ; the model is sft-{name}")
    rl: Rl = Rl()
    arms: dict[Name, Arm] = Field(min_length=1)
    evaluation: Evaluation = Evaluation()
    tables: dict[Name, Table]
    full_size: FullSize | None = Field(None, description="also make tables with the full test sets")
    trace_analysis: list[TraceSet] = Field([], description="pooled by Tables 3 and 4 and Figure 3")
    qa_analysis: list[TraceSet] = Field([], description="pooled by results/qa_bigrams.csv")
    judge: Judge = Judge(kind="rules")
    statistics: Statistics = Statistics()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return with_preset(value) if isinstance(value, Mapping) else value

    @field_validator("arms", mode="before")
    @classmethod
    def _inherit(cls, value: Any) -> Any:
        return inherit(value) if isinstance(value, Mapping) else value

    @field_validator("benchmarks", "tables", mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        # An overlay takes an entry away by setting it to null.
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _refers(self) -> Config:
        if found := list(references.faults(self)):
            raise Faults(found)
        return self

    def judged(self) -> list[TraceSet]:
        """Trajectories that the judge reads: those of the trace analysis whose task it decides, as in the paper."""
        asked = ("math", "web") if self.judge.kind == "server" else ()
        return [each for each in self.trace_analysis if self.benchmarks[each.benchmark].task in asked]

    @property
    def evaluation_tools(self) -> Tools:
        """The tools that trace generation uses."""
        return self.evaluation.tools or self.tools

    def model_ids(self, model: str) -> list[str]:
        """Model ids behind a row's model expression: one per seed for `arm@step`, else itself."""
        arm, _, step = model.partition("@")
        return [f"{arm}-step{self.step(step)}-seed{seed}" for seed in self.rl.seeds] if step else [model]

    def step(self, step: str) -> int:
        """A checkpoint's step: first and last are those that are kept; 0 for a model that has none."""
        return {"first": self.rl.save_every, "last": self.rl.steps}.get(step) or int(step or 0)

    def pilot(self, name: str) -> Sft:
        """Settings of an SFT run: `full`, or a pilot's keys over it."""
        return self.sft if name == "full" else Sft.model_validate(self.sft.model_dump() | self.sft_pilots[name])


def load(merged: Mapping[str, Any], files: list[str], stated: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Validate a merged configuration.

    Args:
        merged: what Snakemake hands over, without the profile's own `site` section.
        files: the YAML files it was merged from, first to last; named in errors.
        stated: what `--config` laid over them, typed; named in errors.

    Raises:
        ConfigError: one error per fault, each with file:key, reason, nearest valid name and the YAML to paste.
    """
    try:
        return Config.model_validate({key: value for key, value in merged.items() if key != "site"})
    except ValidationError as error:
        raise ConfigError(render_errors(error, Config, merged, files, stated)) from None
