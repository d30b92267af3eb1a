"""Score, trace and log records that tables and figures read, found by their paths.

`{scores,traces,judge}/{model}/{benchmark}.jsonl`, `runs/rl/{arm}/seed{seed}/metrics.jsonl` and
`runs/sft/{run}/log.jsonl` are recognised by the last parts of their paths, under any root. A path may be a file or a
directory that contains such files. Records in `sampled/` have the model id `sampled/{model}`.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl
from tir.scoring.score import judgement_index, metric_value, with_verdicts

Paths = Iterable[str | os.PathLike]
SOURCES = ("scores", "traces", "judge", "metrics", "logs", "data", "timings", "model")


class Inputs:
    """Input files by kind of record; each is read once, at first use.

    Args:
        scores, traces: JSON Lines files `.../{model}/{benchmark}.jsonl`, or directories of them.
        judge: the judge's verdicts on some of these trajectories, in files of the same kind. Score records have them.
        metrics: `.../{arm}/seed{seed}/metrics.jsonl`, or directories.
        logs: `.../{run}/log.jsonl`, or directories.
        data: other data files (SFT trajectories), in order.
        timings: Snakemake's benchmark files (`benchmarks/**/*.tsv`), or directories.
        model: manifest of the model whose parameters a label counts (`tir.analysis.origin`).
        judge_decides: whether a verdict determines which trajectory is correct.
    """

    def __init__(
        self,
        *,
        scores: Paths = (),
        traces: Paths = (),
        judge: Paths = (),
        metrics: Paths = (),
        logs: Paths = (),
        data: Paths = (),
        timings: Paths = (),
        model: Paths = (),
        judge_decides: bool = True,
    ):
        self._scores = _index_files(scores, "*/*.jsonl", _place)
        self._traces = _index_files(traces, "*/*.jsonl", _place)
        self._judge = _index_files(judge, "*/*.jsonl", _place)
        self._judge_decides = judge_decides
        self._metrics = _index_files(
            metrics,
            "*/seed*/metrics.jsonl",
            lambda path: (path.parents[1].name, int(path.parent.name.removeprefix("seed"))),
        )
        self._logs = _index_files(logs, "*/log.jsonl", lambda path: path.parent.name)
        self._timings = _index_files(timings, "**/*.tsv", _timing_key)
        self.data = [Path(path) for path in data]
        self.model = [Path(path) for path in model]
        self._read: dict[Path, list[dict]] = {}

    @staticmethod
    def add_arguments(parse: ArgumentParser) -> None:
        """Add one option per kind of input: `--scores FILE_OR_DIRECTORY ...` and so on."""
        for source in SOURCES:
            flags = (f"--{source}", f"--{source}-dir")
            parse.add_argument(*flags, nargs="*", default=[], help=f"{source}: files or their directory")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Inputs:
        """Inputs named on a command line; `judge_decides` is one of its parameters."""
        decides = arguments.params.get("judge_decides", True)
        return cls(**{source: getattr(arguments, source) for source in SOURCES}, judge_decides=decides)

    def scores(self, model: str, benchmark: str) -> list[dict]:
        """Score records of a model on a benchmark, with the judge's verdicts if they were given."""
        place = model, benchmark
        records = self._records(self._scores, place, "scores")
        if place not in self._judge:
            return records
        verdicts = judgement_index(self._records(self._judge, place, "judge"))
        return with_verdicts(records, verdicts, decides=self._judge_decides)

    def traces(self, model: str, benchmark: str) -> list[dict]:
        """Trace records of a model on a benchmark."""
        return self._records(self._traces, (model, benchmark), "traces")

    def has_scores(self, model: str, benchmark: str) -> bool:
        """Whether score records of a model on a benchmark were given."""
        return (model, benchmark) in self._scores

    def has_traces(self, model: str, benchmark: str) -> bool:
        """Whether trace records of a model on a benchmark were given."""
        return (model, benchmark) in self._traces

    def arms(self) -> list[str]:
        """Arms that have RL metrics, in the order of their paths."""
        return list(dict.fromkeys(arm for arm, _ in self._metrics))

    def metrics(self, arm: str) -> dict[int, list[dict]]:
        """Per seed, the RL metrics of an arm, one object per step."""
        by_seed = {
            seed: self._records(self._metrics, (name, seed), "metrics")
            for name, seed in sorted(self._metrics)
            if name == arm
        }
        if not by_seed:
            raise DataError(
                "no RL metrics of this arm",
                where=arm,
                why=f"arms with metrics: {', '.join(self.arms()) or 'none'}",
                remedy=f"pass runs/rl/{arm}/seed*/metrics.jsonl with --metrics",
            )
        return by_seed

    @property
    def runs(self) -> list[str]:
        """SFT runs that have a log."""
        return list(self._logs)

    def log(self, run: str) -> list[dict]:
        """Log records of an SFT run."""
        return self._records(self._logs, run, "logs")

    @cached_property
    def timings(self) -> dict[str, float]:
        """Wall-clock seconds by a Snakemake benchmark file's path under `benchmarks/`; repeats are averaged."""
        return {name: _seconds(path) for name, path in self._timings.items()}

    @cached_property
    def gpus(self) -> dict[str, int]:
        """GPUs of each timed job that its benchmark file states (`--benchmark-extended`)."""
        stated = re.compile(r"'(?:gres': 'gpu:(?:[\w.-]+:)?|gpu': )(\d+)")
        found = {name: stated.search(path.read_text()) for name, path in self._timings.items()}
        return {name: int(match[1]) for name, match in found.items() if match}

    def score_array(self, models: Sequence[str], benchmark: str, metric: str) -> np.ndarray:
        """A metric of one arm on a benchmark, shape (seeds, items, samples), one model id per seed.

        Items are sorted by id, so arrays of arms with the same items are aligned. Raises `DataError`, which names the
        first difference, if two models answered different items or samples.
        """
        tables = [self._by_item(model, benchmark, metric) for model in models]
        for model, table in zip(models[1:], tables[1:], strict=True):
            same_items(tables[0], table, f"{models[0]} and {model} on {benchmark}")
        return np.array([[table[item] for item in sorted(table)] for table in tables], float)

    def items(self, model: str, benchmark: str) -> set:
        """Ids of the items a model was scored on."""
        return {record["id"] for record in self.scores(model, benchmark)}

    def correct(self, model: str, benchmark: str) -> dict[tuple, bool]:
        """Verdict of each trajectory, by (id, sample)."""
        return {(record["id"], record["sample"]): bool(record["correct"]) for record in self.scores(model, benchmark)}

    def judged(self, model: str, benchmark: str) -> int:
        """Number of these verdicts that the judge decided; the rules decided the others."""
        return sum(record.get("decided_by") == "judge" for record in self.scores(model, benchmark))

    def _by_item(self, model: str, benchmark: str, metric: str) -> dict[Any, list[float]]:
        table: dict[Any, dict[int, float]] = {}
        for record in self.scores(model, benchmark):
            table.setdefault(record["id"], {})[record["sample"]] = metric_value(record, metric)
        samples = {tuple(sorted(row)) for row in table.values()}
        if len(samples) != 1:
            raise DataError(
                "items have different samples",
                where=f"scores of {model} on {benchmark}",
                why=f"the items' sample numbers differ: {', '.join(map(str, sorted(samples)[:3]))}",
                remedy="generate the complete trace file, then score it again",
            )
        return {item: [row[sample] for sample in sorted(row)] for item, row in table.items()}

    def _records(self, places: Mapping, key: Any, kind: str) -> list[dict]:
        path = places.get(key)
        if path is None:
            name = "/".join(map(str, key)) if isinstance(key, tuple) else key
            raise DataError(
                f"no {kind} of {name}",
                where=kind,
                why=f"none of the {len(places)} files given is for {name}",
                remedy=f"pass the file of {name} with --{kind}",
            )
        if path not in self._read:
            self._read[path] = read_jsonl(path, ("id", "sample", "verdict") if kind == "judge" else ())
            if not self._read[path]:
                raise DataError(
                    "file is empty", where=str(path), why="it has no records", remedy=f"rm {path}  # then run again"
                )
        return self._read[path]


def is_arm(models: Sequence[str]) -> bool:
    """Whether model ids stand for a way of training, whose seeds are samples of it: checkpoints of an arm
    (`aspo-step30-seed1`), or fine-tuning on one of two corpora (`sft-synthesised`).
    """
    return all(re.search(r"-step\d+(-dpo\d+)?-seed\d+$|^sft-(original|synthesised)$", model) for model in models)


def same_items(first: Mapping, second: Mapping, where: str) -> None:
    """Raise `DataError` unless two tables hold the same item ids with the same number of samples."""
    missing = set(first) ^ set(second)
    if missing:
        raise DataError(
            "models answered different items",
            where=where,
            why=f"{len(missing)} items have an answer of only one of them, e.g. {sorted(map(str, missing))[0]}",
            remedy="run all models on the same benchmark file and n",
        )
    if {len(row) for row in first.values()} != {len(row) for row in second.values()}:
        raise DataError(
            "models have different numbers of samples",
            where=where,
            why="they were evaluated with different settings",
            remedy="run all models with the same evaluation.samples",
        )


def read_rows(path: Path) -> list[dict]:
    """Rows of a JSON list or a JSON Lines file."""
    rows = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            "file is not a list of records",
            where=str(path),
            why="it must hold JSON objects: a list (.json) or one per line (.jsonl)",
        )
    return rows


def _index_files(paths: Paths, pattern: str, key) -> dict[Any, Path]:
    """Key -> file, for the files given and those that match `pattern` in the directories given."""
    by_key: dict[Any, Path] = {}
    for path in map(Path, paths):
        files = sorted(path.glob(pattern)) if path.is_dir() else [path]
        for file in files:
            other = by_key.setdefault(key(file), file)
            if other != file:
                raise DataError(
                    "two files hold the same records",
                    where=str(file),
                    why=f"{other} has the same place in the layout",
                    remedy="pass one of the two",
                )
    return by_key


def _place(path: Path) -> tuple[str, str]:
    """(model, benchmark) of a file; the trajectories of the trace analysis have the model id `sampled/MODEL`."""
    sampled = len(path.parts) > 3 and path.parts[-4] == "sampled"
    return f"sampled/{path.parent.name}" if sampled else path.parent.name, path.stem


def _timing_key(path: Path) -> str:
    """`traces/sft/gsm8k` of `benchmarks/traces/sft/gsm8k.tsv`; the stem of a file that lies elsewhere."""
    parts = path.with_suffix("").parts
    return "/".join(parts[parts.index("benchmarks") + 1 :]) if "benchmarks" in parts else path.stem


def _seconds(path: Path) -> float:
    try:
        header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        column = header.index("s")
        return sum(float(row[column]) for row in rows) / len(rows)
    except (OSError, ValueError, ZeroDivisionError, IndexError) as error:
        raise DataError(
            "not a Snakemake benchmark file", where=str(path), why=f"it has no column of seconds `s`: {error}"
        ) from None
