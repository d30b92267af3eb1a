"""Merge verl's logs and the trajectory records into `metrics.jsonl`: one object per step; step 0 is before training.

Names are those of verl (`critic/score/mean`, `actor/pg_loss`, `response_length/mean`, ...), and in addition

    val/test_score/{data_source}     validation reward, under upstream's name
    train/..., val/...               statistics of the step's trajectories (see `trajectory_metrics`)
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tir.common.errors import TirError
from tir.common.records import read_jsonl, write_jsonl
from tir.data.rl_rows import ABILITIES
from tir.rollout.behaviour import TOOL_BIGRAMS, measures
from tir.rollout.protocol import Segment, first_tool_offset

_VALIDATION_REWARD = re.compile(r"val-(?:core|aux)/(?P<source>.+)/reward/mean@\d+")
_RECORDS = re.compile(r"(?P<kind>train|val)_(?P<step>\d+)\..*jsonl")


class NotFinite(TirError):
    """A loss, a gradient norm or another metric of an update is NaN or infinite; what was trained is worth nothing."""


def check_finite(step: int, metrics: Mapping[str, Any], directory: str | os.PathLike) -> None:
    """Raise `NotFinite` if a metric of the update (`actor/...`) is NaN or infinite.

    verl skips such an update and goes on: the run would end without an error, and without having learnt from the step.
    """
    for name, value in metrics.items():
        if name.startswith("actor/") and isinstance(value, float) and not math.isfinite(value):
            raise NotFinite(
                f"{name} is {value} at step {step}",
                where=str(directory),
                why="the update diverged: verl skips it, and trains on without its trajectories",
                remedy=f"rm -r {directory}  # and lower rl.learning_rate, or set rl.precision: fp32",
            )


def read_log(path: str | os.PathLike) -> list[tuple[int, dict[str, float]]]:
    """Steps and metrics of one log of verl's `file` logger, in order; skips an incomplete last line."""
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
    """Numbers of a log row; the validation reward also under upstream's name.

    NaN and infinity are kept for the update's metrics only: others are NaN if there is nothing to compute them from.
    """
    flat = {}
    for name, value in data.items():
        if isinstance(value, (int, float)) and (math.isfinite(value) or name.startswith("actor/")):
            flat[name] = value
            match = _VALIDATION_REWARD.fullmatch(name)
            if match:
                flat[f"val/test_score/{match['source']}"] = value
    return flat


def merge_logs(
    logs: Iterable[str | os.PathLike], records: Mapping[tuple[str, int], list[dict]]
) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`.

    Args:
        logs: verl's logs, one per attempt, oldest first; of a repeated step, the last log counts.
        records: trajectory records by (`train` or `val`, step).
    """
    steps: dict[int, dict[str, float]] = {}
    for log in logs:
        for step, metrics in read_log(log):
            steps[step] = metrics
    for (kind, step), rows in records.items():
        if step in steps:
            steps[step] |= trajectory_metrics(kind, rows)
            if kind == "train":
                # If verl is killed during validation, it has not logged the step, but the trajectories were recorded.
                steps[step].setdefault("critic/score/mean", _mean(row["score"] for row in rows))
    return [{"step": step, **dict(sorted(steps[step].items()))} for step in sorted(steps)]


def trajectory_metrics(kind: str, rows: list[dict]) -> dict[str, float]:
    """Statistics of a step's trajectories.

    Means `{kind}/score/{ability}` and `{kind}/accuracy/{ability}`; executed calls per trajectory `{kind}/python_calls`
    and `{kind}/search_calls`; fractions `{kind}/fault_rate`, `{kind}/bonus_rate` and `{kind}/finish/{reason}`; and
    `{kind}/zero_variance_share`, the share of groups (of several trajectories) whose rewards are all equal. What the
    trajectories of an ability do has the names of `behaviour_metrics`.
    """
    metrics = {}
    groups: dict[int, list[float]] = {}
    for row in rows:
        groups.setdefault(row["index"], []).append(row["score"])
    if several := [scores for scores in groups.values() if len(scores) > 1]:
        metrics[f"{kind}/zero_variance_share"] = _mean(len(set(scores)) == 1 for scores in several)
    for name in ABILITIES:
        own = [row for row in rows if row["ability"] == name]
        if own:
            metrics[f"{kind}/score/{name}"] = _mean(row["score"] for row in own)
            metrics[f"{kind}/accuracy/{name}"] = _mean(row["accuracy"] for row in own)
            metrics |= {f"{kind}/{measure}/{name}": value for measure, value in behaviour_metrics(own).items()}
    metrics[f"{kind}/fault_rate"] = _mean(row["fault"] is not None for row in rows)
    metrics[f"{kind}/bonus_rate"] = _mean(row["bonus"] for row in rows)
    for tool in ("python", "search"):
        metrics[f"{kind}/{tool}_calls"] = _mean(row["executed"].get(tool, 0) for row in rows)
    for finish in ("answer", "length", "budget"):
        metrics[f"{kind}/finish/{finish}"] = _mean(row["finish"] == finish for row in rows)
    return metrics


def behaviour_metrics(rows: list[dict]) -> dict[str, float]:
    """Means over trajectories of what they do (`tir.rollout.behaviour`), the same for every arm.

    `bigram/{first}-{second}` of each pair of actions with a tool, `calls`, `tokens`, `truncated`; `first_tool` and
    `first_tool_share` over the trajectories with a tool, and without these two if there is none.
    """
    found = []
    for row in rows:
        segments = [Segment(**segment) for segment in row["segments"]]
        found.append(measures(segments, first_tool_offset(segments), row["finish"], row["response_tokens"]))
    names = {"calls": "calls", "tokens": "tokens", "truncated": "truncated"}
    names |= {pair: "bigram/" + "-".join(pair) for pair in TOOL_BIGRAMS}
    metrics = {name: _mean(each.get(key, 0) for each in found) for key, name in names.items()}
    for key, name in (("offset", "first_tool"), ("share", "first_tool_share")):
        values = [each[key] for each in found if not math.isnan(each[key])]
        if values:
            metrics[name] = _mean(values)
    return metrics


def collect_records(directory: str | os.PathLike) -> dict[tuple[str, int], list[dict]]:
    """Trajectory records of all worker processes by kind and step, sorted by row and group member."""
    found: dict[tuple[str, int], list[dict]] = {}
    for path in sorted(Path(directory).glob("*.jsonl")):
        match = _RECORDS.fullmatch(path.name)
        if match:
            found.setdefault((match["kind"], int(match["step"])), []).extend(read_jsonl(path))
    for rows in found.values():
        rows.sort(key=lambda row: (row["index"], row["session"]))
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


def drop_records(directory: str | os.PathLike, start_step: int, *, validate: bool) -> None:
    """Delete records that a run resumed at `start_step` writes again: of later steps, and of its first validation."""
    for path in Path(directory).glob("*.jsonl"):
        match = _RECORDS.fullmatch(path.name)
        if match and (
            int(match["step"]) > start_step
            or (validate and match["kind"] == "val" and int(match["step"]) == start_step)
        ):
            path.unlink()


def write_rollouts(records: Mapping[tuple[str, int], list[dict]], directory: str | os.PathLike) -> None:
    """Write `train_{step}.jsonl` and `val_{step}.jsonl`, one trajectory per line."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for (kind, step), rows in records.items():
        write_jsonl(Path(directory) / f"{kind}_{step}.jsonl", rows)


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
