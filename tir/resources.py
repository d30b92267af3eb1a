"""What a run used, from Snakemake's benchmark files and Slurm's accounts: the study's Table 8 for this place."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tir.needs import Job
from tir.records import atomic_path

_USED = {"cpu_percent": "CPU Efficiency (%)", "memory_percent": "Memory Usage (%)"}  # ours -> the Slurm plugin's
COLUMNS = ("stage", "job", "gpus", "gpu_type", "seconds", "gpu_hours", "max_rss_mb", "cpu_seconds", *_USED)


def collect(benchmarks: str | os.PathLike, gres: Mapping[str, str], reports: Iterable[str | os.PathLike] = (),
            ) -> list[dict[str, str | float]]:
    """One row per finished job, by stage and name.

    Args:
        benchmarks: directory of benchmark files: `sft.tsv`, `rl/{arm}-seed{seed}.tsv`, `traces/{model}/{benchmark}.tsv`,
            `n500/traces/...`, ...
        gres: GPUs per stage as Slurm spells them.
        reports: efficiency reports of Snakemake's Slurm plugin: how much of what a job asked for it used, in percent.
            Empty for a job that Slurm's accounts do not know.
    """
    rows, used = [], _efficiency(reports)
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        parts = path.relative_to(benchmarks).with_suffix("").parts
        size = parts[:1] if re.fullmatch(r"n\d+", parts[0]) else ()  # a larger sample's trees repeat the stages
        stage, *job = parts[len(size) :]
        measured = _last(path)
        if measured is None:
            continue
        kind, number = Job(stage, {}, gres.get(stage, "")).gpu
        seconds = float(measured["s"])
        rows.append({"stage": stage, "job": "/".join([*size, *job]), "gpus": number, "gpu_type": kind,
                     "seconds": round(seconds, 1), "gpu_hours": round(number * seconds / 3600, 4),
                     "max_rss_mb": measured.get("max_rss", ""), "cpu_seconds": measured.get("cpu_time", "")}
                    | used.get(_key(stage, *size, *job), dict.fromkeys(_USED, "")))
    return rows


def _efficiency(reports: Iterable[str | os.PathLike]) -> dict[str, dict[str, float]]:
    """The last word of the reports on each job; a job has a row per step, and one of them does the work."""
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
    """A job's name without what benchmark files and Slurm's comments write differently."""
    return "".join(re.findall("[a-z0-9]+", "".join(parts).replace("seed", "")))


def _last(path: Path) -> dict[str, str] | None:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return rows[-1] if rows and rows[-1].get("s") else None


def write(rows: Iterable[Mapping[str, str | float]], output: str | os.PathLike) -> None:
    """Write the rows as CSV, atomically."""
    with atomic_path(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
