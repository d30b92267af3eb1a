"""TensorBoard's event files from the JSON Lines of training runs, for runs whose trainer wrote none.

Runs of any age and of environments without TensorBoard are shown this way, also while they go on. Runs in the
environment of `make watch`, which has TensorBoard alone: nothing here imports torch or pydantic.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_UNCHANGED = ("step", "current_steps", "total_steps", "percentage", "train_rows", "held_out_rows", "gpus")


class Curves:
    """Event files in `directory/{run}`, brought up to date by `update`.

    Args:
        root: folder of the workflow, with `runs/`.
        own: folder with the event files that trainers wrote, a folder per run; these runs are left out.
        directory: folder to write; what is there is removed.
    """

    def __init__(self, root: Path, own: Path, directory: Path):
        self._root, self._own, self._directory = root, own, directory
        self._writers: dict[str, EventFileWriter] = {}
        self._written: dict[str, int] = {}  # last step by run
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def update(self) -> list[str]:
        """Write the steps that are new; returns the names of all runs that have any."""
        tracked = {file.parent.name for file in self._own.glob("*/events.*")}
        # The trainer names a run of reinforcement learning after its last model: aspo-step30-seed1 is aspo-seed1 here.
        tracked |= {re.sub(r"-step\d+-seed(\d+)$", r"-seed\1", name) for name in tracked}
        for name, rows in runs(self._root):
            if name in tracked:
                continue
            new = [(step, values) for step, values in rows if step > self._written.get(name, -1)]
            if not new:
                continue
            if name not in self._writers:
                self._writers[name] = EventFileWriter(str(self._directory / name))
            for step, values in new:
                found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
                self._writers[name].add_event(Event(step=step, summary=Summary(value=found)))
            self._writers[name].flush()
            self._written[name] = new[-1][0]
        return sorted(self._written)

    def close(self) -> None:
        for each in self._writers.values():
            each.close()


def runs(root: Path) -> Iterator[tuple[str, list[tuple[int, dict[str, float]]]]]:
    """Name and (step, values) of each run of fine-tuning, reinforcement learning and DPO, in the order of steps."""
    for directory in sorted(root.glob("runs/sft/*/")):
        yield "sft" if directory.name == "full" else f"sft-{directory.name}", _of_llamafactory(directory)
    for directory in sorted(root.glob("runs/dpo/*/training/")):
        yield directory.parent.name, _of_llamafactory(directory)
    for directory in sorted(root.glob("runs/rl/*/seed*/")):
        yield f"{directory.parent.name}-{directory.name}", _of_verl(directory)
        for part in sorted(directory.glob("to*/")):  # after DPO
            yield f"{directory.parent.name}-step{part.name.removeprefix('to')}-{directory.name}", _of_verl(part)


def _of_llamafactory(directory: Path) -> list[tuple[int, dict[str, float]]]:
    logs = [directory / "log.jsonl", directory / "checkpoints" / "trainer_log.jsonl"]
    rows = next((_rows(log) for log in logs if log.exists()), [])
    return _by_step((row.get("step", row.get("current_steps")), row) for row in rows)


def _of_verl(directory: Path) -> list[tuple[int, dict[str, float]]]:
    if (directory / "metrics.jsonl").exists():
        return _by_step((row["step"], row) for row in _rows(directory / "metrics.jsonl"))
    attempts = [row for log in sorted(directory.glob("logs/verl_*.jsonl")) for row in _rows(log)]
    return _by_step((row["step"], row["data"]) for row in attempts)


def _by_step(rows) -> list[tuple[int, dict[str, float]]]:
    """Numbers by step; of a step that was repeated after an interruption, the last ones."""
    found: dict[int, dict[str, float]] = {}
    for step, row in rows:
        if isinstance(step, int):
            numbers = {name: value for name, value in row.items() if _is_number(value) and name not in _UNCHANGED}
            found[step] = found.get(step, {}) | numbers
    return sorted((step, values) for step, values in found.items() if values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Whole rows of a file that may be growing."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and line.strip():
            rows.append(json.loads(line))
    return rows
