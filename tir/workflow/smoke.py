"""The smoke run: a user's own profile with the tiny scale, and one line per stage about what came out.

It tries on the real machine what the paper's scale needs, in minutes: images or environments, the profile's partitions,
every engine on its device, bf16, two processes, the reference model.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tir.common.errors import TirError
from tir.common.records import read_json, read_jsonl
from tir.common.subprocesses import tail
from tir.workflow.findings import Finding

GPUS, MINUTES = 2, 30  # at most, per job
SIZES = ("", "sampled/")  # the values of the rules' wildcard `size` in runs of the tiny scale
TARGETS = (
    "results/table5.csv",
    "judge/sft/gsm8k.jsonl",
    "results/retrieval_smoke.csv",
    "models/aspo-step2-dpo1-seed1/manifest.json",  # DPO of the policy that Table 5 shows
)
SCALE = ["profiles/laptop/tiny.yaml", "profiles/ci/quick.yaml", "profiles/smoke/few.yaml"]
ON_GPUS = "profiles/smoke/cuda.yaml"


def smoke_profile(profile: Mapping[str, Any], site_files: Sequence[str], *, on_gpus: bool) -> dict[str, Any]:
    """A profile with the tiny scale in place of its experiment, at most `GPUS` GPUs and `MINUTES` minutes per job.

    Args:
        profile: the content of the profile's config.yaml.
        site_files: the configuration files of the profile that describe the machine.
        on_gpus: compute on GPUs.
    """
    made = dict(profile) | {
        "configfile": [*SCALE, *([ON_GPUS] if on_gpus else []), *site_files],
        "keep-going": True,  # independent stages get their verdict too
        "retries": 0,
    }
    for key in ("resources", "default-resources"):
        if key in profile:
            made[key] = _smaller(profile[key])
    if "set-resources" in profile:
        made["set-resources"] = {rule: _smaller(asked) for rule, asked in profile["set-resources"].items()}
    return made


def _smaller(resources: Mapping[str, Any] | Sequence[str]) -> dict[str, Any] | list[str]:
    """Resources of a profile, as a map or as a list of `name=value`: `GPUS` and `MINUTES` in place of larger limits."""
    if not isinstance(resources, Mapping):
        pairs = [str(each).partition("=") for each in resources]
        return [f"{name}={value}" for name, value in _smaller({name: value for name, _, value in pairs}).items()]
    return {name: MINUTES if name == "runtime" else _fewer(name, value) for name, value in resources.items()}


def _fewer(name: str, value: Any) -> Any:
    """The value of a resource, with at most `GPUS` GPUs: `gpu:h100:8`, or 8 of the resource `gpu`."""
    if name == "gpu" and str(value).isdigit():
        return min(int(value), GPUS)
    if not isinstance(value, str):
        return value
    return re.sub(r"(gpu(?::[\w.-]+)?:)(\d+)", lambda found: f"{found[1]}{min(int(found[2]), GPUS)}", value)


# --- verdicts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stage: patterns of its outputs and logs as in its rule, and what a finished one has to show.

    Attributes:
        shows: paths of the outputs -> a line about them; raises ValueError if the output is not what it should be.
    """

    name: str
    outputs: str
    logs: str
    shows: Callable[[list[Path]], str]


def _passages(paths: list[Path]) -> str:
    return f"{read_json(paths[0])['count']:,} passages"


def _answers(paths: list[Path]) -> str:
    with open(paths[0], newline="", encoding="utf-8") as file:
        latencies = [float(row["latency_ms"]) for row in csv.DictReader(file)]
    log = "\n".join(tail(paths[0].parents[1] / "logs/retrieval_smoke.log", 100))
    servers = re.findall(r"^retrieval: (the (?:site|run)'s server|a server beside this job), http", log, re.M)
    by = f" by {servers[-1]}" if servers else ""
    return f"{_number(len(latencies), 'question')} answered{by}, the slowest in {max(latencies) / 1000:.1f} s"


def _losses(paths: list[Path]) -> str:
    runs = [[row["loss"] for row in read_jsonl(path) if "loss" in row] for path in paths]
    if not all(losses and all(map(math.isfinite, losses)) for losses in runs):
        raise ValueError("the training loss is missing or not finite")
    first, last = fmean(losses[0] for losses in runs), fmean(losses[-1] for losses in runs)
    return f"{_number(len(runs), 'run')}, mean loss {first:.2f} -> {last:.2f}"


def _steps(paths: list[Path]) -> str:
    rows = [row for path in paths for row in read_jsonl(path)]
    divergences = [row["actor/kl_loss"] for row in rows if "actor/kl_loss" in row]
    if not divergences or not all(map(math.isfinite, divergences)):
        raise ValueError("no KL divergence from the reference model in the metrics")
    return f"{_number(len(divergences), 'step')}, KL divergence {divergences[-1]:.1e}"


def _trajectories(paths: list[Path]) -> str:
    rows = [row for path in paths for row in read_jsonl(path)]
    failed = sum(row["finish"] == "error" for row in rows)
    if failed:
        raise ValueError(f"{failed} of {len(rows)} trajectories ended with an error")
    calls = sum(row["n_python"] + row["n_search"] for row in rows)
    return f"{_number(len(rows), 'trajectory', 'trajectories')}, {_number(calls, 'tool call')}"


def _count(unit: str) -> Callable[[list[Path]], str]:
    return lambda paths: _number(sum(len(read_jsonl(path)) for path in paths), unit)


def _number(count: int, unit: str, plural: str = "") -> str:
    return f"{count:,} {unit if count == 1 else plural or unit + 's'}"


STAGES = (
    Stage("images", "images/*.sif", "logs/images/*.log", lambda paths: _number(len(paths), "image")),
    Stage("index", "index/manifest.json", "logs/index.log", _passages),
    Stage("search", "results/retrieval_smoke.csv", "logs/retrieval_smoke.log", _answers),
    Stage("fine-tuning", "runs/sft/*/log.jsonl", "logs/sft/*.log", _losses),
    Stage("reinforcement learning", "runs/rl/*/seed*/metrics.jsonl", "logs/rl/*.log", _steps),
    Stage("DPO", "runs/dpo/*/training/log.jsonl", "logs/dpo*/*.log", _losses),
    Stage("trajectories", "{size}traces/*/*.jsonl", "logs/{size}traces/*/*.log", _trajectories),
    Stage("judge", "{size}judge/*/*.jsonl", "logs/{size}judge/*/*.log", _count("verdict")),
    Stage("scores", "{size}scores/*/*.jsonl", "logs/{size}scores/*/*.log", _count("score")),
    Stage("table", "results/table5.csv", "logs/table5.log", lambda paths: "results/" + paths[0].name),
)


def verdicts(directory: str | Path, *, images: bool) -> list[Finding]:
    """One finding per stage, from the files of a run; a failed stage has the remedy that its log ends with.

    Args:
        directory: the workflow's directory.
        images: whether the site runs its stages in images.
    """
    found: list[Finding] = []
    for stage in STAGES:
        if images or stage.name != "images":
            found.append(_verdict(stage, Path(directory), [each.check for each in found if not each.ok]))
    return found


def _verdict(stage: Stage, directory: Path, failed: Sequence[str]) -> Finding:
    broken = [found for log in _matching(directory, stage.logs) if (found := _fault(log))]
    if broken:
        return Finding(stage.name, False, *broken[0])
    outputs = _matching(directory, stage.outputs)
    if not outputs:
        cause = (
            f"correct {failed[0]}" if failed else "read Snakemake's messages above: no job of this stage has an error"
        )
        return Finding(stage.name, False, "not reached", f"{cause}, then run the same command again")
    try:
        return Finding(stage.name, True, stage.shows(outputs))
    except (ValueError, KeyError, TirError) as error:
        logs = " ".join(_patterns(stage.logs))
        return Finding(stage.name, False, f"{outputs[0].relative_to(directory)}: {error}", f"less {logs}")


def _patterns(pattern: str) -> list[str]:
    """A pattern with each value of `{size}`; only itself if it has none."""
    return list(dict.fromkeys(pattern.replace("{size}", size) for size in SIZES))


def _matching(directory: Path, pattern: str) -> list[Path]:
    return sorted(path for each in _patterns(pattern) for path in directory.glob(each))


def _fault(log: Path) -> tuple[str, str] | None:
    """Error and remedy at the end of a failed job's log; None if it does not end with an error."""
    lines = tail(log, 12)
    starts = [
        number for number, line in enumerate(lines) if re.match(r"(\w+\.)*\w*(Error|Fault|Failed|Unavailable)\b", line)
    ]
    if not starts:
        return None
    error, rest = lines[starts[-1]], lines[starts[-1] + 1 :]
    if len(rest) > 1 or (rest and not rest[0].startswith("  try: ")):
        return None  # the job went on
    return error, (rest[0].removeprefix("  try: ") if rest else f"less {log}  # the cause is at its end")
