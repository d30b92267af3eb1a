"""Resources that each job used, from Snakemake's benchmark files and Slurm's accounting, like the paper's Table 8."""

from __future__ import annotations

import ast
import csv
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tir.common.files import atomic_path
from tir.workflow.gres import parse_gres

_USED = {"cpu_percent": "CPU Efficiency (%)", "memory_percent": "Memory Usage (%)"}  # ours -> the Slurm plugin's
COLUMNS = ("stage", "job", "gpus", "gpu_type", "seconds", "gpu_hours", "max_rss_mb", "cpu_seconds", *_USED)


def collect(
    benchmarks: str | os.PathLike,
    reports: Iterable[str | os.PathLike] = (),
) -> list[dict[str, str | float]]:
    """One row per finished job, by stage and name.

    Args:
        benchmarks: directory of benchmark files: `sft/{run}.tsv`, `rl/{arm}-seed{seed}.tsv`,
            `traces/{model}/{benchmark}.tsv`, `n500/traces/...`, ...
        reports: efficiency reports of Snakemake's Slurm plugin: CPU and memory used, in percent of those requested.
            The two columns are empty for a job that is in no report.
    """
    rows, used = [], _efficiency(reports)
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        parts = path.relative_to(benchmarks).with_suffix("").parts
        # n500/ and sampled/ repeat the folders of the stages.
        size = tuple(itertools.takewhile(re.compile(r"n\d+|sampled").fullmatch, parts))
        stage, *job = parts[len(size) :]
        measured = _last(path)
        if measured is None:
            continue
        kind, number = parse_gres(_gres(measured))
        seconds = float(measured["s"])
        rows.append(
            {
                "stage": stage,
                "job": "/".join([*size, *job]),
                "gpus": number,
                "gpu_type": kind,
                "seconds": round(seconds, 1),
                "gpu_hours": round(number * seconds / 3600, 4),
                "max_rss_mb": measured.get("max_rss", ""),
                "cpu_seconds": measured.get("cpu_time", ""),
            }
            | used.get(_key(stage, *size, *job), dict.fromkeys(_USED, ""))
        )
    return rows


def _efficiency(reports: Iterable[str | os.PathLike]) -> dict[str, dict[str, float]]:
    """Efficiency by job, from the newest report that lists it: the maximum over the rows of its Slurm steps."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(reports, key=os.path.getmtime):
        jobs: dict[str, dict[str, float]] = {}
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rule, _, wildcards = row.get("RuleName", "").removeprefix("rule_").partition("_wildcards_")
                job = jobs.setdefault(_key(rule, wildcards), dict.fromkeys(_USED, 0.0))
                for name, column in _USED.items():
                    job[name] = max(job[name], round(float(row[column] or 0), 1))
        found |= jobs
    return found


def _key(*parts: str) -> str:
    """A job's name reduced to the characters that benchmark files and Slurm's comments have in common."""
    return "".join(re.findall("[a-z0-9]+", "".join(parts).replace("seed", "")))


def _gres(measured: Mapping[str, str]) -> str:
    """GPUs that a job requested, in Slurm's notation; "" without `--benchmark-extended`, which records resources."""
    return str(ast.literal_eval(measured.get("resources") or "{}").get("gres", ""))


def _last(path: Path) -> dict[str, str] | None:
    """The last row of a benchmark file; None if it is empty or incomplete."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return rows[-1] if rows and rows[-1].get("s") else None


def write(rows: Iterable[Mapping[str, str | float]], output: str | os.PathLike) -> None:
    """Write the rows as CSV, atomically."""
    with atomic_path(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
