"""This run's records as the evaluators of claims ask for them; what is absent comes back as a sentence that says so."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tir.errors import DataError
from tir.protocol import TOOLS, actions
from tir.statistics import Comparison, study
from tir.tables.curves import curve, validation_key
from tir.tables.inputs import Inputs, segments_of
from tir.tables.training import SftLog, sft_log
from tir.tables.trajectories import Behaviour, behaviours, scored

MACROS = ("Avg", "math", "qa")


class Run:
    """Records of one run.

    Args:
        inputs: all records that claims may need.
        claims: all claims; those about one column are corrected for their number together.
        models: model expression (`aspo@last`) -> model ids, one per seed.
        benchmarks: [{name, label, task, metric}].
        sets: trajectories of the trace analysis.
        statistics: {resamples, seed}.
        facts: numbers of the configuration.
    """

    def __init__(self, inputs: Inputs, claims: Sequence[Mapping], *, models: Mapping[str, list[str]],
                 benchmarks: Sequence[Mapping], sets: Sequence[Mapping], statistics: Mapping[str, Any],
                 facts: Mapping[str, Any]):
        self.inputs, self.facts = inputs, facts
        self._claims, self._models = claims, models
        self._sets = [each for each in sets if inputs.has_traces(each["model"], each["benchmark"])]
        self._facts = {each["name"]: each for each in benchmarks}
        self.benchmarks = list(self._facts)
        self.resamples, self._seed = statistics["resamples"], statistics["seed"]
        self._studies: dict[str, dict[tuple[str, str], Comparison]] = {}

    def random(self, name: str) -> np.random.Generator:
        """A generator of a claim's own, so that adding a claim moves no other's interval."""
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def trained_once(self, claim: Mapping[str, Any]) -> list[str]:
        """The arms' checkpoints that a claim compares and that stand for one seed each."""
        compared = [str(claim.get(side)) for side in "ab"]
        return [model for model in compared if "@" in model and len(self._models.get(model, ())) == 1]

    # --- scores -----------------------------------------------------------------------------------------------

    def members(self, column: str) -> list[str]:
        """Benchmarks of a column: itself, or those of an average."""
        if column not in MACROS:
            return [column] if column in self._facts else []
        return [name for name, each in self._facts.items() if column in ("Avg", each["task"])]

    def scores(self, model: str, column: str) -> dict[str, np.ndarray] | str:
        """Per benchmark of a column, scores (seeds, items, samples); or why there are none."""
        lack = self._lack(model, column, self.inputs.has_scores)
        if lack:
            return lack
        return {name: self.inputs.score_array(self._models[model], name, self._facts[name]["metric"])
                for name in self.members(column)}

    def comparison(self, a: str, b: str, column: str) -> Comparison | str:
        """a minus b on a column; or why there is no such comparison."""
        for model in (a, b):
            lack = self._lack(model, column, self.inputs.has_scores)
            if lack:
                return lack
        if self._models[a] == self._models[b]:
            return f"{a} and {b} are the same checkpoint in this run"
        if column not in self._studies:
            self._studies[column] = self._study(column)
        return self._studies[column][a, b]

    def _study(self, column: str) -> dict[tuple[str, str], Comparison]:
        pairs = [(each["a"], each["b"]) for each in self._claims
                 if each["kind"] in ("difference", "equivalence") and each["column"] == column]
        pairs += [(each["a"], each["b"]) for each in self._claims if each["kind"] == "wins" and column not in MACROS]
        pairs = [pair for pair in dict.fromkeys(pairs) if not any(
            self._lack(model, column, self.inputs.has_scores) for model in pair)
            and self._models[pair[0]] != self._models[pair[1]]]
        labels = dict.fromkeys(model for pair in pairs for model in pair)
        found = study({label: self.scores(label, column) for label in labels}, pairs=pairs, resamples=self.resamples,
                      seed=self._seed, macros={column: self.members(column)} if column in MACROS else None)
        return {(each.a, each.b): each for each in found.comparisons if each.column == column}

    def _lack(self, model: str, column: str, has) -> str:
        if model not in self._models:
            return f"this run has no model {model}"
        if not self.members(column):
            return f"this run has no benchmark {column}"
        missing = [name for name in self.members(column) for each in self._models[model] if not has(each, name)]
        return f"{model} was not evaluated on {', '.join(dict.fromkeys(missing))}" if missing else ""

    # --- trajectories -------------------------------------------------------------------------------------------

    def calls(self, model: str, task: str) -> dict[str, np.ndarray] | str:
        """Per benchmark of a task, tool calls written per question, shape (items,), means over seeds and samples."""
        lack = self._lack(model, task, self.inputs.has_traces)
        if lack:
            return lack
        found = {}
        for name in self.members(task):
            counts: dict[Any, list[int]] = {}
            for each in self._models[model]:
                for trace in self.inputs.traces(each, name):
                    written = sum(action in TOOLS for action in actions(segments_of(trace)))
                    counts.setdefault(trace["id"], []).append(written)
            found[name] = np.array([np.mean(counts[item]) for item in sorted(counts)])
        return found

    @cached_property
    def _behaviours(self) -> list[Behaviour]:
        return behaviours(self.inputs, self._sets)

    def trajectories(self, task: str | None = None) -> list[Behaviour]:
        """Trajectories of the trace analysis, of one task or all."""
        return [each for each in self._behaviours if task in (None, each.task)]

    def trajectory_metrics(self) -> dict[str, list[float]]:
        """The binary and graded metrics of the same trajectories, by the paper's names for them."""
        records = [score for _, _, score in scored(self.inputs, self._sets)]
        found = {name: [float(each[key]) for each in records]
                 for name, key in (("exact match", "em"), ("substring accuracy", "acc"), ("mean F1", "f1"))}
        found["F1 >= 0.5"] = [float(each["f1"] >= 0.5) for each in records]
        found["verdict"] = [float(each["correct"]) for each in records]
        return found

    # --- training -------------------------------------------------------------------------------------------------

    def metric_names(self, arm: str) -> list[str]:
        """Metrics that an arm logged; none for an arm that was not run."""
        if arm not in self.inputs.arms():
            return []
        return sorted({key for rows in self.inputs.metrics(arm).values() for row in rows for key in row})

    def logged(self, arm: str, metric: str) -> list[float]:
        """All values of a training metric, of any seed and step that has it."""
        return [row[metric] for rows in self.inputs.metrics(arm).values() for row in rows if metric in row]

    def curve(self, arm: str, metric: str) -> np.ndarray | str:
        """Values (seeds, steps) of a training metric, `validation` being the score on the validation set."""
        if arm not in self.inputs.arms():
            return f"this run has no arm {arm}"
        runs = self.inputs.metrics(arm)
        try:
            return curve(runs, validation_key(runs) if metric == "validation" else metric, arm)[1]
        except DataError as error:
            return f"{arm}: {error.what}"

    @cached_property
    def _log(self) -> SftLog | None:
        return sft_log(self.inputs, "full") if "full" in self.inputs.runs else None

    def sft(self, what: str) -> list[tuple[int, float]]:
        """(step, loss) pairs of the full fine-tuning run: losses or evaluations."""
        log = self._log
        return getattr(log, what) if log else []
