"""What a run used, from Snakemake's benchmark files: the study's Table 8 for this place."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tir.needs import Job
from tir.records import atomic_path

COLUMNS = ("stage", "job", "gpus", "gpu_type", "seconds", "gpu_hours", "max_rss_mb", "cpu_seconds")


def collect(benchmarks: str | os.PathLike, gres: Mapping[str, str]) -> list[dict[str, str | float]]:
    """One row per finished job, by stage and name.

    Args:
        benchmarks: directory of benchmark files: `sft.tsv`, `rl/{arm}-seed{seed}.tsv`, `traces/{model}/{benchmark}.tsv`, ...
        gres: GPUs per stage as Slurm spells them.
    """
    rows = []
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        parts = path.relative_to(benchmarks).with_suffix("").parts
        measured = _last(path)
        if measured is None:
            continue
        kind, number = Job(parts[0], {}, gres.get(parts[0], "")).gpu
        seconds = float(measured["s"])
        rows.append({"stage": parts[0], "job": "/".join(parts[1:]), "gpus": number, "gpu_type": kind,
                     "seconds": round(seconds, 1), "gpu_hours": round(number * seconds / 3600, 4),
                     "max_rss_mb": measured.get("max_rss", ""), "cpu_seconds": measured.get("cpu_time", "")})
    return rows


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
