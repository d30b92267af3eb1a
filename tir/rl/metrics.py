"""From verl's log and the loop's records to `metrics.jsonl`: one object per step, flat names, step 0 before training.

Names are verl's own (`critic/score/mean`, `actor/pg_loss`, `response_length/mean`, ...), plus

    val/test_score/{data_source}     upstream's name of the validation reward
    train/..., val/...               what the trajectories of the step did, by `trajectory_metrics`
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tir.records import read_jsonl, write_jsonl
from tir.reward import ABILITIES

_VALIDATION_REWARD = re.compile(r"val-(?:core|aux)/(?P<source>.+)/reward/mean@\d+")
_RECORDS = re.compile(r"(?P<kind>train|val)_(?P<step>\d+)\..*jsonl")


def read_log(path: str | os.PathLike) -> list[tuple[int, dict[str, float]]]:
    """Steps of one of verl's `file` logs, in order; a line that is still being written is left out."""
    rows = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        row = json.loads(line)
        rows.append((row["step"], flat_metrics(row["data"])))
    return rows


def flat_metrics(data: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a log row, with the validation reward under upstream's name as well; what is no finite number is dropped."""
    flat = {}
    for name, value in data.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            flat[name] = value
            match = _VALIDATION_REWARD.fullmatch(name)
            if match:
                flat[f"val/test_score/{match['source']}"] = value
    return flat


def merge_logs(logs: Iterable[str | os.PathLike], records: Mapping[tuple[str, int], list[dict]]) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`.

    Args:
        logs: verl's logs of a run's attempts, oldest first; a step that was run again counts as the later one.
        records: trajectory records by (`train` or `val`, step).
    """
    steps: dict[int, dict[str, float]] = {}
    for log in logs:
        for step, metrics in read_log(log):
            steps[step] = metrics
    for (kind, step), rows in records.items():
        if step in steps:
            steps[step] |= trajectory_metrics(kind, rows)
            if kind == "train":  # verl logs a step after validating, and may be killed before; the trajectories are there
                steps[step].setdefault("critic/score/mean", _mean(row["score"] for row in rows))
    return [{"step": step, **dict(sorted(steps[step].items()))} for step in sorted(steps)]


def trajectory_metrics(kind: str, rows: list[dict]) -> dict[str, float]:
    """What a step's trajectories did.

    `{kind}/score` and `{kind}/accuracy` by ability, `{kind}/fault_rate`, `{kind}/bonus_rate`, executed calls per
    trajectory `{kind}/python_calls` and `{kind}/search_calls`, shares of `{kind}/finish/...`.
    """
    metrics = {}
    for name in ABILITIES:
        own = [row for row in rows if row["ability"] == name]
        if own:
            metrics[f"{kind}/score/{name}"] = _mean(row["score"] for row in own)
            metrics[f"{kind}/accuracy/{name}"] = _mean(row["accuracy"] for row in own)
    metrics[f"{kind}/fault_rate"] = _mean(row["fault"] is not None for row in rows)
    metrics[f"{kind}/bonus_rate"] = _mean(row["bonus"] for row in rows)
    for tool in ("python", "search"):
        metrics[f"{kind}/{tool}_calls"] = _mean(row["executed"].get(tool, 0) for row in rows)
    for finish in ("answer", "length", "budget"):
        metrics[f"{kind}/finish/{finish}"] = _mean(row["finish"] == finish for row in rows)
    return metrics


def collect_records(directory: str | os.PathLike) -> dict[tuple[str, int], list[dict]]:
    """Records that the loop's processes wrote, by kind and step, each in the order of rows and group members."""
    found: dict[tuple[str, int], list[dict]] = {}
    for path in sorted(Path(directory).glob("*.jsonl")):
        match = _RECORDS.fullmatch(path.name)
        if match:
            found.setdefault((match["kind"], int(match["step"])), []).extend(read_jsonl(path))
    for rows in found.values():
        rows.sort(key=lambda row: (row["index"], row["session"]))
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


def drop_records(directory: str | os.PathLike, start_step: int, *, validate: bool) -> None:
    """Delete records that a run starting after `start_step` writes anew: later steps, and its first validation's."""
    for path in Path(directory).glob("*.jsonl"):
        match = _RECORDS.fullmatch(path.name)
        if match and (int(match["step"]) > start_step or (validate and match["kind"] == "val" and int(match["step"]) == start_step)):
            path.unlink()


def write_rollouts(records: Mapping[tuple[str, int], list[dict]], directory: str | os.PathLike) -> None:
    """Write `train_{step}.jsonl` and `val_{step}.jsonl`, one trajectory per line."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for (kind, step), rows in records.items():
        write_jsonl(Path(directory) / f"{kind}_{step}.jsonl", rows)


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
