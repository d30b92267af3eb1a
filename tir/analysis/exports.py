"""What the exports of trajectories to other tools share: reading the records, scores by name, means over items."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tir.analysis.segments import segments_of
from tir.common.errors import DataError
from tir.common.records import parse_row, read_jsonl
from tir.rollout.protocol import extract_answer, first_tool_offset
from tir.scoring.metrics import RULE_METRICS

TRACE_KEYS = ("id", "sample", "segments", "finish")
SCORE_KEYS = ("id", "sample", "correct")
ROLLOUT_KEYS = ("index", "session", "question", "segments", "finish", "score")
SCORES = ("correct", *RULE_METRICS, "reward", "accuracy", "bonus")  # of a score record, then of a rollout


@dataclass(frozen=True)
class Trajectories:
    """Trajectories to export.

    Attributes:
        traces: trace records.
        scores: score record by (item, sample); a trajectory without a score is not among them.
        created: when the records were written, in whole seconds since 1970.
        finished: whether the file is complete, not one that is being written.
    """

    traces: Sequence[Mapping[str, Any]]
    scores: Mapping[tuple[Any, int], Mapping[str, Any]]
    created: float
    finished: bool = True

    def score(self, trace: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.scores.get((trace["id"], trace["sample"]))


def of_benchmark(traces: Path, scores: Path) -> Trajectories:
    """The trajectories of a model on a benchmark.

    A file that is still being written (`{traces}.partial`) gives its whole records, without scores. Raises `DataError`
    if there is neither file, or for a damaged record of a finished one.
    """
    partial = traces.with_name(f"{traces.name}.partial")
    if not traces.exists() and partial.exists():
        rows, _ = unfinished_traces(partial)
        return Trajectories(_some(rows, partial), {}, _time([partial]), finished=False)
    rows = _some(read_jsonl(traces, TRACE_KEYS), traces)
    found = read_jsonl(scores, SCORE_KEYS) if scores.exists() else []
    return Trajectories(rows, {(row["id"], row["sample"]): row for row in found}, _time([traces]))


def of_rollouts(run: Path, kind: str, step: int) -> Trajectories:
    """The trajectories of a step of reinforcement learning, `kind` train or val, with their rewards.

    While the run goes on they are those that have been sampled so far. Raises `DataError` if the step has none.
    """
    path = run / "rollouts" / f"{kind}_{step}.jsonl"
    if path.exists():
        rows, paths = read_jsonl(path, ROLLOUT_KEYS), [path]
    else:
        paths = sorted((run / "records").glob(f"{kind}_{step}.*.jsonl"))
        rows = [row for each in paths for row in whole_rows(each.read_bytes(), ROLLOUT_KEYS)[0]]
        rows.sort(key=lambda row: (row["index"], row["session"]))
    if not rows:
        raise DataError("no rollouts of this step", where=str(path), why=_steps(run, kind))
    traces = [_as_trace(row) for row in rows]
    scores = {(row["index"], row["session"]): row | {"reward": row["score"]} for row in rows}
    return Trajectories(traces, scores, _time(paths), finished=path.exists())


def unfinished_traces(partial: Path) -> tuple[list[dict], int]:
    """The whole trace records of a file that is being written, whose first line is no record; see `whole_rows`."""
    return whole_rows(partial.read_bytes().partition(b"\n")[2], TRACE_KEYS)


def whole_rows(text: bytes, keys: Sequence[str]) -> tuple[list[dict], int]:
    """The whole rows of JSON Lines that are being written, and the number of lines that are none."""
    rows, broken = [], 0
    for line in text.split(b"\n"):
        try:
            rows += [parse_row(line, keys)] if line.strip() else []
        except ValueError:
            broken += 1
    return rows, broken


def values(score: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a score by name; those of another task are not there."""
    return {name: float(score[name]) for name in SCORES if score.get(name) is not None}


def item_mean(pairs: Iterable[tuple[Any, float]]) -> tuple[float, float | None]:
    """Mean over items and its standard error, None for one item; the values of an item are averaged first.

    Args:
        pairs: (item, value), at least one.
    """
    by_item: dict[Any, list[float]] = {}
    for item, value in pairs:
        by_item.setdefault(item, []).append(value)
    means = [mean(each) for each in by_item.values()]
    return mean(means), stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


def golds(trace: Mapping[str, Any]) -> list[str]:
    """The accepted answers of a trajectory."""
    gold = trace["gold"] if isinstance(trace["gold"], list) else [trace["gold"]]
    return [each if isinstance(each, str) else json.dumps(each) for each in gold]


def _as_trace(row: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout as a trace record. The item is the number of its row in the training or validation file, from 0."""
    segments = segments_of(row)
    return {
        "id": row["index"],
        "sample": row["session"],
        "task": row["ability"],
        **{key: row[key] for key in ("question", "gold", "segments", "finish", "fault")},
        "answer": extract_answer(segments),
        **{f"n_{tool}": row["executed"].get(tool, 0) for tool in ("python", "search")},
        "first_tool_offset": first_tool_offset(segments),
        "usage": {key: row.get(key) for key in ("model_tokens", "response_tokens")},
        "timings": {"seconds": row["seconds"]},
    }


def _some(rows: list[dict], path: Path) -> list[dict]:
    if not rows:
        raise DataError("no trajectories", where=str(path), why="the file has no whole record")
    return rows


def _steps(run: Path, kind: str) -> str:
    files = [*(run / "rollouts").glob(f"{kind}_*.jsonl"), *(run / "records").glob(f"{kind}_*.jsonl")]
    steps = sorted({int(each.name.removeprefix(f"{kind}_").partition(".")[0]) for each in files})
    return f"the run has some of step {', '.join(map(str, steps))}" if steps else f"{run} has no rollouts at all"


def _time(paths: Iterable[Path]) -> float:
    return float(max(int(each.stat().st_mtime) for each in paths))
