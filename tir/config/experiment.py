"""The whole experiment: sections that refer to each other, and the one way to load it.

`load` turns the merged YAML that Snakemake hands over into a `Config`. An arm may inherit from another by `base:`, and
every arm is validated merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tir.config.arms import Arm, inherit
from tir.config.data import Benchmark, Data, Models, TinyModel, World
from tir.config.errors import render_errors
from tir.config.evaluation import Evaluation
from tir.config.judge import Judge
from tir.config.model import Model, Name, RunName
from tir.config.retrieval import Retrieval
from tir.config.tables import FullSize, Statistics, Table, TraceSet
from tir.config.tools import Tools
from tir.config.training import Rl, Sft
from tir.errors import ConfigError
from tir.presets import with_preset
from tir.tables.reference import models


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
        for name in self.sft_pilots:
            if name == "full" or name.startswith("epoch"):
                raise ValueError(f"sft_pilots.{name}: the main run and its epochs have that name")
            self.pilot(name)
        for name, table in self.tables.items():
            for row in table.rows:
                self._check_row(f"tables.{name}", row.model)
                if row.paper and row.paper not in models(name):
                    raise ValueError(f"tables.{name} sets {row.label} beside the paper's {row.paper}; there the paper "
                                     f"has {', '.join(models(name)) or 'no models'}")
            for benchmark in table.benchmarks or []:
                self._check_benchmark(f"tables.{name}", benchmark)
        for section in ("trace_analysis", "qa_analysis"):
            for chosen in getattr(self, section):
                self._check_row(section, chosen.model)
                self._check_benchmark(section, chosen.benchmark)
        for name in self.full_size.tables if self.full_size else []:
            if name not in (*self.tables, "qa_bigrams"):
                raise ValueError(f"full_size.tables names {name}; tables has {', '.join(self.tables)}")
        if self.judge.kind == "server" and self.judge.model == "judge" and self.model.judge is None:
            raise ValueError("judge.kind is server, but model.judge is not set; set it, or judge: {kind: rules}")
        sources = [self.data.sft, self.data.rl_train, self.data.rl_validation, self.data.corpus, self.model.base,
                   *(benchmark.source for benchmark in self.benchmarks.values())]
        if any(source.kind == "world" for source in sources) and self.world is None:
            raise ValueError("a source of kind world needs a `world:` section")
        return self

    @model_validator(mode="after")
    def _rows_are_there(self) -> Config:
        there = self.data.rl_train.rows
        if there and self.rl.rows > there:
            raise ValueError(f"rl.rows {self.rl.rows} is more than the {there} rows of data.rl_train")
        return self

    def judged(self) -> list[TraceSet]:
        """Trajectories that the judge reads: those of the trace analysis whose task it decides, as in the paper."""
        asked = ("math", "web") if self.judge.kind == "server" else ()
        return [each for each in self.trace_analysis if self.benchmarks[each.benchmark].task in asked]

    def _check_row(self, where: str, model: str) -> None:
        if model == "published" and self.model.published is None:
            raise ValueError(f"{where} shows `published`, but model.published is not set")
        epoch = re.fullmatch(r"sft-epoch(\d+)", model)
        if epoch and int(epoch[1]) > self.sft.epochs:
            raise ValueError(f"{where} shows {model}, but sft.epochs is {self.sft.epochs}")
        if model.startswith("sft-") and not epoch and model[4:] not in self.sft_pilots:
            raise ValueError(f"{where} shows {model}, but sft_pilots has {', '.join(self.sft_pilots) or 'none'}")
        arm, _, step = model.partition("@")
        step = self._step(step)
        if step and arm not in self.arms:
            raise ValueError(f"{where} shows {model}, but arms has no {arm}; it has {', '.join(self.arms)}")
        if step and (step > self.rl.steps or step % self.rl.save_every):
            raise ValueError(f"{where} shows {model}, but checkpoints are kept every {self.rl.save_every} steps "
                             f"up to {self.rl.steps}")

    def _check_benchmark(self, where: str, name: str) -> None:
        if name not in self.benchmarks:
            raise ValueError(f"{where} names the benchmark {name}; benchmarks has {', '.join(self.benchmarks)}")

    @property
    def evaluation_tools(self) -> Tools:
        """The tools that trace generation uses."""
        return self.evaluation.tools or self.tools

    def model_ids(self, model: str) -> list[str]:
        """Model ids behind a row's model expression: one per seed for `arm@step`, else itself."""
        arm, _, step = model.partition("@")
        return [f"{arm}-step{self._step(step)}-seed{seed}" for seed in self.rl.seeds] if step else [model]

    def _step(self, step: str) -> int:
        """A checkpoint's step: first and last are those that are kept; 0 for a model that has none."""
        return {"first": self.rl.save_every, "last": self.rl.steps}.get(step) or int(step or 0)

    def pilot(self, name: str) -> Sft:
        """Settings of an SFT run: `full`, or a pilot's keys over it."""
        if name == "full":
            return self.sft
        try:
            return Sft.model_validate(self.sft.model_dump() | self.sft_pilots[name])
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"sft_pilots.{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def load(merged: Mapping[str, Any], files: list[str]) -> Config:
    """Validate a merged configuration.

    Args:
        merged: what Snakemake hands over, without the profile's own `site` section.
        files: the YAML files it was merged from, first to last; named in errors.

    Raises:
        ConfigError: one error per fault, each with file:key, reason, nearest valid name and the YAML to paste.
    """
    try:
        return Config.model_validate({key: value for key, value in merged.items() if key != "site"})
    except ValidationError as error:
        raise ConfigError(render_errors(error, Config, merged, files)) from None
