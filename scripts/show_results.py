"""Print Tables 5 and 6, the time of each stage, and where the summary is."""

import csv
from collections import defaultdict
from pathlib import Path

from tir.analysis.numbers import fixed
from tir.common.cli import run
from tir.workflow.resources import collect

_STAGES = {
    "world": "data",
    "world_trajectories": "data",
    "tiny_model": "data",
    "index": "retrieval index",
    "sft": "SFT",
    "rl": "RL",
    "traces": "traces",
}


def main() -> None:
    for table in ("table5", "table6"):
        path = Path(f"results/{table}.csv")
        if path.is_file():
            print(f"\n{path}")
            with open(path, newline="", encoding="utf-8") as file:
                print_aligned(list(csv.reader(file)))
    stages = stage_seconds(Path("benchmarks"))
    if stages:
        print("\ntime by stage (summed over jobs, which may run concurrently)")
        print_aligned(
            [
                ["stage", "jobs", "minutes"],
                *([name, str(count), fixed(seconds / 60, 1)] for name, (count, seconds) in stages.items()),
            ]
        )

    pages = {"summary": "results/summary.html", "all results": "results/report.html"}
    found = [[f"{name}:", path] for name, path in pages.items() if Path(path).is_file()]
    if found:
        print()
        for name, path in found:
            print(f"{name} {path}")


def stage_seconds(directory: Path) -> dict[str, tuple[int, float]]:
    """(jobs, seconds) by stage, from Snakemake's benchmark files."""
    totals: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for job in collect(directory):
        name = _STAGES.get(job["stage"], job["stage"])
        count, seconds = totals[name]
        totals[name] = (count + 1, seconds + job["seconds"])
    order = list(dict.fromkeys(_STAGES.values()))
    return dict(sorted(totals.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def print_aligned(rows: list[list[str]]) -> None:
    """Print rows as columns: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


if __name__ == "__main__":
    run(main)
