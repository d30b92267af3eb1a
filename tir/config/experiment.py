"""The whole configuration: all sections, and the function that loads them.

`load` validates the YAML that Snakemake has merged and returns a `Config`. An arm may inherit from another by `base:`;
arms are validated after inheritance is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tir.common.errors import ConfigError
from tir.common.schema import Device, Model, Name, RunName, drop_nulls
from tir.config import references
from tir.config.arms import Arm, inherit
from tir.config.data import Benchmark, Data
from tir.config.dpo import Dpo
from tir.config.errors import render_errors, render_faults
from tir.config.evaluation import Evaluation
from tir.config.faults import Faults
from tir.config.judge import Judge
from tir.config.presets import with_preset
from tir.config.retrieval import Retrieval
from tir.config.rl import Rl
from tir.config.sft import Sft
from tir.config.sources import ModelSource, unread_keys
from tir.config.study import Study
from tir.config.synthesis import RUNS, Synthesis
from tir.config.tables import FullSize, Statistics, Table, TraceSampling, TraceSet
from tir.config.tools import Tools
from tir.config.world import TinyModelSettings, WorldSettings
from tir.config.yaml_files import content


class Config(Model):
    """The experiment."""

    device: Device = Field("cuda", description="device for training and generation")
    preset: Literal["fixed", "upstream_rl", "upstream_eval", "upstream"] = Field(
        "fixed",
        description="conventions of the rollout; keys of the configuration override it; see tir/config/presets.py",
    )
    data: Data = Field(description="inputs")
    benchmarks: dict[Name, Benchmark] = Field(min_length=1, description="test sets; null removes one")
    world: WorldSettings | None = Field(None, description="the generated world, for sources of kind world")
    models: dict[Name, ModelSource] = Field(
        description="models that this workflow does not train, by name; fine-tuning starts from `base`; table rows, "
        "trace analyses, the judge and the encoder can use any of them; null removes one"
    )
    tiny_model: TinyModelSettings | None = Field(None, description="settings of models of kind world")
    tools: Tools = Field(Tools(), description="tools of a rollout")
    retrieval: Retrieval = Field(description="the index over the corpus")
    sft: Sft = Field(Sft(), description="supervised fine-tuning")
    synthesis: Synthesis | None = Field(None, description="a corpus for the cold start, made by a teacher")
    sft_pilots: dict[RunName, dict[str, Any]] = Field(
        default={}, description="smaller runs: name -> keys of `sft` that differ; the model's id is sft-{name}"
    )
    rl: Rl = Field(Rl(), description="reinforcement learning, the same for all arms")
    arms: dict[Name, Arm] = Field(
        min_length=1, description="arms of RL; `base: other` inherits the keys of another arm"
    )
    dpo: Dpo = Field(Dpo(), description="DPO of the arms that have a schedule for it")
    evaluation: Evaluation = Field(Evaluation(), description="trace generation on benchmarks")
    tables: dict[Name, Table] = Field(description="tables of models; null removes one")
    study: Study | None = Field(None, description="arms compared over many outcomes, in results/study/; null: none")
    full_size: FullSize | None = Field(None, description="tables with the full test sets")
    trace_analysis: list[TraceSet] = Field([], description="trajectories pooled by Tables 3 and 4 and Figure 3")
    qa_analysis: list[TraceSet] = Field([], description="trajectories pooled by results/qa_bigrams.csv")
    trace_sampling: TraceSampling = Field(
        TraceSampling(), description="decoding of the trajectories of trace_analysis and qa_analysis, in sampled/"
    )
    judge: Judge = Field(Judge(kind="rules"), description="judge of answers that rules cannot decide")
    statistics: Statistics = Field(Statistics(), description="bootstrap of the claims about trajectories")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return with_preset(value) if isinstance(value, Mapping) else value

    @field_validator("arms", mode="before")
    @classmethod
    def _inherit(cls, value: Any) -> Any:
        return inherit(value) if isinstance(value, Mapping) else value

    _remove = field_validator("benchmarks", "models", "tables", mode="before")(drop_nulls)

    @model_validator(mode="after")
    def _refers(self) -> Config:
        if found := list(references.faults(self)):
            raise Faults(found)
        return self

    @property
    def generated(self) -> str:
        """Label of what is generated, for the experiment's results; "" if data and models are real."""
        data = (self.data.sft, self.data.rl_train, self.data.rl_validation, self.data.corpus)
        if any(each.kind == "world" for each in (*data, *(each.source for each in self.benchmarks.values()))):
            return "generated world"
        return "generated model" if self.models["base"].kind == "world" else ""

    def judged(self) -> list[TraceSet]:
        """Trajectories that the judge reads: those of the trace analysis on math and web tasks, as in the paper."""
        tasks = ("math", "web") if self.judge.kind == "server" else ()
        return [each for each in self.trace_analysis if self.benchmarks[each.benchmark].task in tasks]

    def helper_models(self, endpoint: str) -> tuple[list[str], dict[str, ModelSource]]:
        """The models that inference-time helpers ask.

        Args:
            endpoint: address of the site's server for them, or `none`: a job then serves them itself.

        Returns:
            Names of the models that a job serves; sources of those that the site's server has, as far as known.

        Raises `ConfigError` for a model that a job would have to serve and `models` has not.
        """
        helpers = self.evaluation.helpers
        enabled = {"debugger": helpers.debugger, "refiner": helpers.refiner}
        asked = {helper.model: name for name, helper in enabled.items() if helper}
        if endpoint != "none":
            return [], {model: self.models[model] for model in sorted(asked) if model in self.models}
        for model, name in asked.items():
            if model not in (*self.models, "sft"):
                raise ConfigError(
                    "no such model",
                    where=f"evaluation.helpers.{name}.model",
                    why=f"models has no {model}, and the site has no server for helpers",
                    remedy="models: {NAME: {kind: hub, repo: OWNER/NAME}}, and model: NAME here; "
                    "or in the profile site: {helper_endpoint: http://HOST:PORT/v1}",
                )
        return sorted(asked), {}

    @property
    def evaluation_tools(self) -> Tools:
        """Tools of trace generation."""
        return self.evaluation.tools or self.tools

    def model_ids(self, model: str) -> list[str]:
        """Model ids of a row's model expression: one per seed for `arm@step`, else the expression itself."""
        arm, _, step = model.partition("@")
        return [self.policy(arm, self.step(step), seed) for seed in self.rl.seeds] if step else [model]

    def policy(self, arm: str, step: int, seed: int) -> str:
        """Model id of an arm's policy at a step, after the DPO that the arm has there."""
        steps = self.dpo_steps(arm)
        dpo = f"-dpo{steps.index(step) + 1}" if step in steps else ""
        run = arm if steps and step > steps[0] else self.trained_as(arm)
        return f"{run}-step{step}{dpo}-seed{seed}"

    def dpo_steps(self, arm: str) -> list[int]:
        """Steps of RL after which an arm's policy goes through DPO, ascending; if any, at least one."""
        schedule, rl = self.arms[arm].dpo, self.rl
        if schedule is None or schedule.every is None:
            return [rl.steps] if schedule else []
        epochs = int(schedule.every * (rl.rows // rl.batch_prompts))
        interval = min(rl.steps, max(rl.save_every, epochs // rl.save_every * rl.save_every))
        return list(range(interval, rl.steps + 1, interval))

    def kept_steps(self, arm: str) -> list[int]:
        """Steps whose policy is kept: every `rl.save_every` steps; after the first DPO, the last one of each part."""
        every = range(self.rl.save_every, self.rl.steps + 1, self.rl.save_every)
        steps = self.dpo_steps(arm)
        return [step for step in every if not steps or step <= steps[0] or step in (*steps, self.rl.steps)]

    def part_before(self, arm: str, step: int) -> int:
        """Step of the DPO at which a later part of RL starts; `step` is the last one of the part."""
        return max(each for each in self.dpo_steps(arm) if each < step)

    def part(self, arm: str, step: int) -> Rl:
        """Settings of the part of RL after a DPO whose last step is `step`."""
        steps = step - self.part_before(arm, step)
        return self.rl.model_copy(update={"steps": steps, "save_every": steps})

    def trained_as(self, arm: str) -> str:
        """The arm whose run of RL comes before an arm's first DPO: its base; without DPO, the arm itself."""
        schedule = self.arms[arm].dpo
        return schedule.rl or arm if schedule else arm

    @property
    def plain_arms(self) -> list[str]:
        """The arms without DPO, each of which is a run of RL per seed."""
        return [name for name, arm in self.arms.items() if not arm.dpo]

    @property
    def interleaved_arms(self) -> list[str]:
        """The arms whose RL goes on after a DPO."""
        return [name for name in self.arms if self.dpo_steps(name) and self.dpo_steps(name)[0] < self.rl.steps]

    def dpo_sampling(self, seed: int) -> Evaluation:
        """Decoding of the trajectories of which DPO makes pairs: as in RL, without helpers, with the arm's seed."""
        return Evaluation(
            engine=self.evaluation.engine,
            concurrency=self.evaluation.concurrency,
            temperature=self.rl.temperature,
            samples=self.dpo.pairs.samples,
            max_response_tokens=self.rl.max_response_tokens,
            seed=seed,
        )

    def decoding(self, *, sampled: bool) -> Evaluation:
        """Settings of trace generation: those of evaluation, or with the decoding of the trace analysis."""
        return self.evaluation.model_copy(update=self.trace_sampling.model_dump()) if sampled else self.evaluation

    def items(self, benchmark: str, *, full: bool) -> int:
        """Items of a benchmark that are evaluated, of its first ones or of the full test set."""
        return self.full_size.n if full and self.full_size else self.benchmarks[benchmark].n

    def step(self, step: str) -> int:
        """Step of a checkpoint, with `first` and `last` resolved; 0 for "", a model without steps."""
        return {"first": self.rl.save_every, "last": self.rl.steps}.get(step) or int(step or 0)

    def pilot(self, name: str) -> Sft:
        """Settings of an SFT run: those of `full`, overridden by the pilot's keys."""
        return (
            self.sft if name in ("full", *RUNS) else Sft.model_validate(self.sft.model_dump() | self.sft_pilots[name])
        )


def load(merged: Mapping[str, Any], files: list[str], stated: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Validate a merged configuration.

    Args:
        merged: the configuration that Snakemake merged; its section `site` is ignored.
        files: the YAML files that were merged, in order; errors name them.
        stated: typed values of `--config`, which override the files; errors name them.

    Raises:
        ConfigError: all faults, each with file, key, reason, nearest valid name and the YAML to paste.
    """
    try:
        config = Config.model_validate({key: value for key, value in merged.items() if key != "site"})
    except ValidationError as error:
        raise ConfigError(render_errors(error, Config, merged, files, stated)) from None
    if faults := list(unread_keys([*map(content, files), stated])):
        raise ConfigError(render_faults(faults, files, stated))
    return config
