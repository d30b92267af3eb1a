"""The records of this run that claims are tested on. A missing record raises `NotMeasured` with the reason."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tir.analysis.claims.verdict import NotMeasured
from tir.analysis.segments import segments_of
from tir.analysis.statistics import Comparison, study
from tir.analysis.tables.curves import curve, validation_key
from tir.analysis.tables.inputs import Inputs, is_arm
from tir.analysis.tables.training import sft_log
from tir.analysis.tables.trajectories import Behaviour, behaviours, scored
from tir.common.errors import DataError
from tir.rollout.protocol import TOOLS, actions

MACROS = ("Avg", "math", "qa")
PAPER_STEPS = 30  # RL steps of the paper; a claim names its steps in this number


class Run:
    """Records of one run.

    Args:
        inputs: all records that claims may need.
        claims: all claims; Holm's correction is over all claims about the same column.
        models: model expression (`aspo@last`) -> model ids, one per seed.
        benchmarks: [{name, label, task, metric}].
        sets: trajectories of the trace analysis, [{model, benchmark, task, n?}].
        statistics: {resamples, seed}.
        facts: {trajectories: number of trajectories sampled in RL, steps: its steps, by the configuration}.
    """

    def __init__(
        self,
        inputs: Inputs,
        claims: Sequence[Mapping],
        *,
        models: Mapping[str, list[str]],
        benchmarks: Sequence[Mapping],
        sets: Sequence[Mapping],
        statistics: Mapping[str, Any],
        facts: Mapping[str, Any],
    ):
        self.inputs, self.facts = inputs, facts
        self._claims, self._models = claims, models
        self._sets = [each for each in sets if inputs.has_traces(each["model"], each["benchmark"])]
        self._benchmarks = {each["name"]: each for each in benchmarks}
        self.benchmarks = list(self._benchmarks)
        self.resamples, self._seed = statistics["resamples"], statistics["seed"]
        self._studies: dict[str, dict[tuple[str, str], Comparison]] = {}

    def random(self, name: str) -> np.random.Generator:
        """A separate generator for each claim, so that a new claim does not change the others' intervals."""
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def trained_once(self, claim: Mapping[str, Any]) -> list[str]:
        """The arms' checkpoints that a claim names and that have only one seed."""
        compared = [str(claim[side]) for side in ("a", "b", "model") if side in claim] + list(claim.get("models", ()))
        return [model for model in compared if len(self._models.get(model, ())) == 1 and is_arm(self._models[model])]

    # --- scores -----------------------------------------------------------------------------------------------

    def members(self, column: str) -> list[str]:
        """Benchmarks of a column: the benchmark itself, or the benchmarks of an average."""
        if column not in MACROS:
            return [column] if column in self._benchmarks else []
        return [name for name, each in self._benchmarks.items() if column in ("Avg", each["task"])]

    def scores(self, model: str, column: str) -> dict[str, np.ndarray]:
        """Per benchmark of a column, scores (seeds, items, samples)."""
        self._require(model, column, self.inputs.has_scores)
        return {
            name: self.inputs.score_array(self._models[model], name, self._benchmarks[name]["metric"])
            for name in self.members(column)
        }

    def comparison(self, a: str, b: str, column: str) -> Comparison:
        """a minus b on a column."""
        for model in (a, b):
            self._require(model, column, self.inputs.has_scores)
        if self._models[a] == self._models[b]:
            raise NotMeasured(f"{a} and {b} are the same checkpoint in this run")
        if column not in self._studies:
            self._studies[column] = self._study(column)
        return self._studies[column][a, b]

    def _study(self, column: str) -> dict[tuple[str, str], Comparison]:
        pairs = [
            (each["a"], each["b"])
            for each in self._claims
            if each["kind"] in ("difference", "equivalence") and each["column"] == column
        ]
        pairs += [(each["a"], each["b"]) for each in self._claims if each["kind"] == "wins" and column not in MACROS]
        pairs = [
            pair
            for pair in dict.fromkeys(pairs)
            if not any(self._missing(model, column, self.inputs.has_scores) for model in pair)
            and self._models[pair[0]] != self._models[pair[1]]
        ]
        labels = dict.fromkeys(model for pair in pairs for model in pair)
        result = study(
            {label: self.scores(label, column) for label in labels},
            arms={label for label in labels if is_arm(self._models[label])},
            pairs=pairs,
            macros={column: self.members(column)} if column in MACROS else None,
        )
        return {(each.a, each.b): each for each in result.comparisons if each.column == column}

    def _require(self, model: str, column: str, recorded: Callable[[str, str], bool]) -> None:
        missing = self._missing(model, column, recorded)
        if missing:
            raise NotMeasured(missing)

    def _missing(self, model: str, column: str, recorded: Callable[[str, str], bool]) -> str:
        """Names the benchmarks of a column without records of a model; "" if there are all.

        Args:
            recorded: whether there are records of a model id on a benchmark.
        """
        if model not in self._models:
            return f"this run has no model {model}"
        if not self.members(column):
            return f"this run has no benchmark {column}"
        missing = [name for name in self.members(column) for each in self._models[model] if not recorded(each, name)]
        return f"{model} was not evaluated on {', '.join(dict.fromkeys(missing))}" if missing else ""

    # --- trajectories -------------------------------------------------------------------------------------------

    def calls(self, model: str, task: str) -> dict[str, np.ndarray]:
        """Per benchmark of a task, tool calls written per question, shape (seeds, items), means over samples."""
        self._require(model, task, self.inputs.has_traces)
        means = {}
        for name in self.members(task):
            by_seed = []
            for each in self._models[model]:
                counts: dict[Any, list[int]] = {}
                for trace in self.inputs.traces(each, name):
                    tool_tags = sum(action in TOOLS for action in actions(segments_of(trace)))
                    counts.setdefault(trace["id"], []).append(tool_tags)
                by_seed.append([np.mean(counts[item]) for item in sorted(counts)])
            means[name] = np.array(by_seed)
        return means

    @cached_property
    def _behaviours(self) -> list[Behaviour]:
        return behaviours(self.inputs, self._sets)

    def trajectories(self, task: str | None = None) -> list[Behaviour]:
        """Trajectories of the trace analysis, of one task or all."""
        return [each for each in self._behaviours if task in (None, each.task)]

    def evaluated_traces(self, models: Sequence[str], benchmark: str) -> list[dict]:
        """Trace records of models on a benchmark, from the evaluation."""
        for model in models:
            self._require(model, benchmark, self.inputs.has_traces)
        return [
            trace for model in models for each in self._models[model] for trace in self.inputs.traces(each, benchmark)
        ]

    def evaluated(self, models: Sequence[str], benchmark: str) -> list[Behaviour]:
        """Their trajectories, joined with their verdicts."""
        self.evaluated_traces(models, benchmark)
        task = self._benchmarks[benchmark]["task"]
        ids = [each for model in models for each in self._models[model]]
        return behaviours(self.inputs, [{"model": each, "benchmark": benchmark, "task": task} for each in ids])

    def trajectory_metrics(self) -> dict[str, list[float]]:
        """Metrics of these trajectories by the paper's names, one value per trajectory."""
        records = [score for _, _, score in scored(self.inputs, self._sets)]
        metrics = {
            name: [float(record[key]) for record in records]
            for name, key in (("exact match", "em"), ("substring accuracy", "acc"), ("mean F1", "f1"))
        }
        metrics["F1 >= 0.5"] = [float(record["f1"] >= 0.5) for record in records]
        metrics["verdict"] = [float(record["correct"]) for record in records]
        return metrics

    # --- training -------------------------------------------------------------------------------------------------

    def metric_names(self, arm: str) -> list[str]:
        """Names of the metrics that an arm logged; empty for an arm that was not run."""
        if arm not in self.inputs.arms():
            return []
        return sorted({key for rows in self.inputs.metrics(arm).values() for row in rows for key in row})

    def logged(self, arm: str, metric: str) -> list[float]:
        """All logged values of a training metric, over all seeds and steps."""
        return [row[metric] for rows in self.inputs.metrics(arm).values() for row in rows if metric in row]

    def curve(self, arm: str, metric: str, steps: Sequence[int]) -> np.ndarray:
        """Values of a training metric at steps of the paper's run, shape (seeds, steps).

        A run of another length uses the same parts of it, and the nearest step at which the metric was logged.
        `validation` is the score on the validation set.
        """
        logged, values = self._curve(arm, metric)
        return values[:, self._places(logged, steps, arm, metric)]

    def read_steps(self, arm: str, metric: str, steps: Sequence[int]) -> np.ndarray:
        """Steps of this run from which `curve` takes its values."""
        logged, _ = self._curve(arm, metric)
        return np.asarray(logged)[self._places(logged, steps, arm, metric)]

    def _places(self, logged: np.ndarray, steps: Sequence[int], arm: str, metric: str) -> list[int]:
        scaled = [step * self.facts["steps"] / PAPER_STEPS for step in steps]
        places = [int(np.argmin(np.abs(logged - step))) for step in scaled]
        if len(set(places)) < len(places):
            raise NotMeasured(f"{arm} logged {metric} at too few steps: {', '.join(map(str, logged))}")
        return places

    def means(self, arm: str, metric: str) -> np.ndarray:
        """Mean of a training metric over all steps at which every seed logged it, shape (seeds,)."""
        return self._curve(arm, metric)[1].mean(axis=1)

    def _curve(self, arm: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        if arm not in self.inputs.arms():
            raise NotMeasured(f"this run has no arm {arm}")
        runs = self.inputs.metrics(arm)
        try:
            return curve(runs, validation_key(runs) if metric == "validation" else metric, arm)
        except DataError as error:
            raise NotMeasured(f"{arm}: {error.what}") from None

    def sft(self, run: str, curve: Literal["losses", "evaluations"]) -> list[tuple[int, float]]:
        """(step, loss) pairs of a fine-tuning run, on training batches or on the held-out set; empty without a log."""
        return getattr(sft_log(self.inputs, run), curve) if run in self.inputs.runs else []

    def data(self, *suffixes: str) -> list[Path]:
        """The data files with these suffixes: rows of fine-tuning (.json) or RL prompts (.parquet)."""
        return [path for path in self.inputs.data if path.suffix in suffixes]
