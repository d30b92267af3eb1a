"""What a study needs, computed from its configuration: disk, and hours of each GPU type.

Rates come from the paper where it measured (Table 8; section 5.5 for RL: 5.5 h for 30 steps) and are marked as
estimates where it did not. They size a plan and a preflight check; nothing scientific reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tir.config import Config, Source

MINUTES_OF = {  # per unit of work: (minutes, unit, where the figure comes from)
    "sft": (95.2 / 161_913, "row and epoch", "Table 8"),
    "rl": (330 / (30 * 32 * 4), "trajectory", "section 5.5"),
    "traces": (4 / 30, "item", "Table 8"),
    "judge": (10 / 50, "trace", "Table 8"),
    "index": (240 / 21_015_324, "passage", "estimate"),
}
CPU_MINUTES = 2.0  # any other job: mostly its start
BYTES_PER_PARAMETER = {"weights": 2, "checkpoint": 16}  # bf16; fp32 master, gradients' moments and weights
CHECKPOINTS_KEPT, RUNS_AT_ONCE = 2, 4  # of an RL run; the runs at once are a guess
IMAGE_GB = {"cuda": 9.0, "cpu": 1.3}


@dataclass(frozen=True)
class Job:
    """One planned job: its rule, wildcards, and GPUs as Slurm spells them (`gpu:h100:8`, or nothing)."""

    rule: str
    wildcards: Mapping[str, str]
    gres: str = ""

    @property
    def gpu(self) -> tuple[str, int]:
        """GPU type and number; ("", 0) for none."""
        found = re.fullmatch(r"gpu:(?:([\w.-]+):)?(\d+)", self.gres or "")
        return (found[1] or "any", int(found[2])) if found else ("", 0)


def stage(rule: str, config: Config) -> str:
    """The stage whose rate and hardware a rule has: a pilot's is the fine-tuning."""
    return "sft" if rule.removeprefix("sft_") in config.sft_pilots else rule


def wants_gpu(rule: str, config: Config, judge_endpoint: str = "none") -> bool:
    """Whether a job of the rule computes on a GPU by itself, and not by a standing server's."""
    if config.device == "cpu":
        return False
    match stage(rule, config):
        case "index":
            return config.retrieval.backend == "dense"
        case "judge":
            return bool(config.judged()) and judge_endpoint == "none"
        case other:
            return other in ("sft", "rl", "traces")


def minutes(job: Job, config: Config) -> float:
    """Expected wall-clock of a job on the profile's GPUs."""
    name = stage(job.rule, config)
    rate = MINUTES_OF.get(name, (0.0,))[0]
    match name:
        case "sft":
            settings = config.sft if job.rule == "sft" else config.pilot(job.rule.removeprefix("sft_"))
            return rate * min(filter(None, (settings.max_rows, config.data.sft.rows)), default=0) * settings.epochs
        case "rl":
            return rate * config.rl.steps * config.rl.batch_prompts * config.rl.group_size
        case "traces" | "judge":
            benchmark = config.benchmarks[job.wildcards["benchmark"]]
            items = config.full_size.n if config.full_size and job.wildcards.get("size") else benchmark.n
            return rate * min(items, benchmark.source.rows or items) * config.evaluation.samples
        case "index":
            return rate * (config.data.corpus.rows or 0)
    return CPU_MINUTES


def parameters(source: Source | None) -> float:
    """Parameters of a model, read off its name (`Qwen2.5-3B`); 0 where the name does not say."""
    found = re.search(r"(\d+(?:\.\d+)?)B\b", source and (source.repo or source.path) or "")
    return float(found[1]) * 1e9 if found else 0.0


def disk_gb(jobs: Iterable[Job], config: Config, hardware: str) -> dict[str, float]:
    """Disk that the planned jobs fill, by what fills it, in GB. Checkpoints are counted for runs side by side."""
    jobs = list(jobs)
    count = {rule: sum(job.rule == rule for job in jobs) for rule in ("sft", "rl", "index", "image")}
    weights = parameters(config.model.base) * BYTES_PER_PARAMETER["weights"] / 1e9
    checkpoint = parameters(config.model.base) * BYTES_PER_PARAMETER["checkpoint"] / 1e9
    fetched = sum(parameters(getattr(config.model, job.wildcards["model"])) for job in jobs if job.rule == "fetch_model")
    rows = config.data.corpus.rows or 0
    saved = config.rl.steps // config.rl.save_every
    planned = {job.rule for job in jobs}
    epochs = [config.sft.epochs] if "sft" in planned else []
    epochs += [config.pilot(name).epochs for name in config.sft_pilots if f"sft_{name}" in planned]
    kept = max(0, *epochs, min(count["rl"], RUNS_AT_ONCE) * min(saved, CHECKPOINTS_KEPT))
    return {
        "images": count["image"] * IMAGE_GB[hardware],
        "corpus and index": count["index"] * rows * (768 * 2 + 650) / 1e9,
        "models": fetched * BYTES_PER_PARAMETER["weights"] / 1e9 + weights * (count["sft"] * (config.sft.epochs + 1) + 2 * count["rl"] * saved),
        "checkpoints while training": checkpoint * kept,
    }


def plan(jobs: Iterable[Job], config: Config, hardware: str) -> str:
    """The plan at the end of `snakemake -n`: jobs, GPUs and hours per stage, disk in all."""
    jobs = list(jobs)
    rows, total = [], 0.0
    for rule, gres in sorted({(job.rule, job.gres) for job in jobs}, key=lambda key: (not key[1], key)):
        some = [job for job in jobs if (job.rule, job.gres) == (rule, gres)]
        kind, number = some[0].gpu
        hours = sum(minutes(job, config) for job in some) / 60
        total += hours * number
        if kind:
            rows.append((rule, str(len(some)), f"{number} x {kind}", f"{hours * number:,.1f}", MINUTES_OF.get(stage(rule, config), ("", "", "?"))[2]))
    others = sum(not job.gpu[1] for job in jobs)
    rows += [("without a GPU", str(others), "-", "-", ""), ("total", str(len(jobs)), "", f"{total:,.1f}", "")]
    disk = disk_gb(jobs, config, hardware)
    head = ("stage", "jobs", "GPUs each", "GPU-hours", "hours from")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    parts = ", ".join(f"{name} {size:,.0f}" for name, size in disk.items() if size)
    return "\n".join(["Plan", *lines, f"disk: {sum(disk.values()):,.0f} GB ({parts or 'nothing large'})"])
