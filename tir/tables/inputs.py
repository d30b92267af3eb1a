"""What tables and figures read: score, trace and log records, found by their place in the layout.

`scores/{model}/{benchmark}.jsonl`, `traces/{model}/{benchmark}.jsonl`, `runs/rl/{arm}/seed{seed}/metrics.jsonl` and
`runs/sft/{run}/log.jsonl` are recognised by the last parts of their paths, wherever their root is. A path may be a
file or a directory that holds such files.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tir.errors import DataError
from tir.protocol import Segment
from tir.records import read_json, read_jsonl
from tir.scoring.score import metric_value

Paths = Iterable[str | os.PathLike]
SOURCES = ("scores", "traces", "metrics", "logs", "data", "timings")


class Inputs:
    """Input files by what they hold; each is read once, when first needed.

    Args:
        scores, traces: JSON Lines files `.../{model}/{benchmark}.jsonl`, or directories of them.
        metrics: `.../{arm}/seed{seed}/metrics.jsonl`, or directories.
        logs: `.../{run}/log.jsonl`, or directories.
        data: other data files (SFT trajectories), in order.
        timings: Snakemake's benchmark files (`benchmarks/**/*.tsv`), or directories.
    """

    def __init__(
        self,
        *,
        scores: Paths = (),
        traces: Paths = (),
        metrics: Paths = (),
        logs: Paths = (),
        data: Paths = (),
        timings: Paths = (),
    ):
        self._scores = _by_place(scores, "*/*.jsonl", lambda path: (path.parent.name, path.stem))
        self._traces = _by_place(traces, "*/*.jsonl", lambda path: (path.parent.name, path.stem))
        self._metrics = _by_place(
            metrics,
            "*/seed*/metrics.jsonl",
            lambda path: (path.parents[1].name, int(path.parent.name.removeprefix("seed"))),
        )
        self._logs = _by_place(logs, "*/log.jsonl", lambda path: path.parent.name)
        self._timings = _by_place(timings, "**/*.tsv", _timing_key)
        self.data = [Path(path) for path in data]
        self._read: dict[Path, list[dict]] = {}

    @staticmethod
    def add_arguments(parse: ArgumentParser) -> None:
        """Give a script one repeatable option per kind of input: `--scores FILE_OR_DIRECTORY ...`."""
        for source in SOURCES:
            named = (f"--{source}", f"--{source}-dir")
            parse.add_argument(*named, nargs="*", default=[], help=f"{source}: files or their directory")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Inputs:
        """Inputs named on a command line."""
        return cls(**{source: getattr(arguments, source) for source in SOURCES})

    def scores(self, model: str, benchmark: str) -> list[dict]:
        """Score records of a model on a benchmark."""
        return self._records(self._scores, (model, benchmark), "scores")

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
        """Arms with RL metrics, in order of their paths."""
        return list(dict.fromkeys(arm for arm, _ in self._metrics))

    def metrics(self, arm: str) -> dict[int, list[dict]]:
        """Per seed, the RL metrics of an arm, one object per step."""
        found = {
            seed: self._records(self._metrics, (name, seed), "metrics") for name, seed in self._metrics if name == arm
        }
        if not found:
            raise DataError(
                "no RL metrics of this arm", where=arm, why=f"there are {', '.join(self.arms()) or 'none at all'}"
            )
        return found

    @property
    def runs(self) -> list[str]:
        """SFT runs with a log."""
        return list(self._logs)

    def log(self, run: str) -> list[dict]:
        """Log records of an SFT run."""
        return self._records(self._logs, run, "logs")

    @cached_property
    def timings(self) -> dict[str, float]:
        """Wall-clock seconds by a Snakemake benchmark file's place under `benchmarks/`; repeats are averaged."""
        return {name: _seconds(path) for name, path in self._timings.items()}

    def score_array(self, models: Sequence[str], benchmark: str, metric: str) -> np.ndarray:
        """A metric of one arm on a benchmark, shape (seeds, items, samples), one model id per seed.

        Items stand in sorted order of their ids, so arrays of different arms line up if their items agree. Raises
        `DataError` naming the first difference if two models answered different items or samples.
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
        """How many of these verdicts are a judge's; the others are the rules'."""
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
                why=f"sample numbers {sorted(samples)[:3]}",
                remedy="score complete trace files only",
            )
        return {item: [row[sample] for sample in sorted(row)] for item, row in table.items()}

    def _records(self, places: Mapping, key: Any, kind: str) -> list[dict]:
        path = places.get(key)
        if path is None:
            name = "/".join(map(str, key)) if isinstance(key, tuple) else key
            raise DataError(
                f"no {kind} of {name}",
                where=kind,
                why=f"{len(places)} other files were given",
                remedy=f"add the file to the {kind} of the rule",
            )
        if path not in self._read:
            self._read[path] = read_jsonl(path)
            if not self._read[path]:
                raise DataError("file is empty", where=str(path), remedy=f"rm {path}  # then run again")
        return self._read[path]


def same_items(first: Mapping, second: Mapping, where: str) -> None:
    """Raise `DataError` unless two tables hold the same item ids with the same number of samples."""
    missing = set(first) ^ set(second)
    if missing:
        raise DataError(
            "models answered different items",
            where=where,
            why=f"{len(missing)} items are in one of them only, e.g. {sorted(map(str, missing))[0]}",
            remedy="run all models on the same benchmark file and n",
        )
    if {len(row) for row in first.values()} != {len(row) for row in second.values()}:
        raise DataError(
            "models have different numbers of samples",
            where=where,
            remedy="run all models with the same evaluation.samples",
        )


def segments_of(trace: Mapping) -> list[Segment]:
    """Segments of a trace record."""
    return [Segment(each["by"], each["text"]) for each in trace["segments"]]


def read_rows(path: Path) -> list[dict]:
    """Rows of a JSON list or a JSON Lines file."""
    rows = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("not a list of records", where=str(path))
    return rows


def _by_place(paths: Paths, pattern: str, key) -> dict[Any, Path]:
    found: dict[Any, Path] = {}
    for path in map(Path, paths):
        files = sorted(path.glob(pattern)) if path.is_dir() else [path]
        for file in files:
            if found.get(key(file), file) != file:
                raise DataError("two files for the same place", where=str(file), why=f"{found[key(file)]} is there too")
            found[key(file)] = file
    return found


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
        raise DataError("not a Snakemake benchmark file", where=str(path), why=str(error)) from None
