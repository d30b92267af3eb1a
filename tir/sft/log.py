"""The log of a fine-tuning run: LLaMA-Factory's `trainer_log.jsonl` as records of step, epoch, loss, rate, time."""

from __future__ import annotations

import json
from pathlib import Path


def read_trainer_log(path: Path) -> list[dict]:
    """Entries of `trainer_log.jsonl` so far; a torn last line is left out."""
    entries = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if isinstance(entry, dict) and "current_steps" in entry:
            entries.append(entry)
    return entries


def keep_until(path: Path, step: int) -> None:
    """Drop the entries beyond a step: the run that wrote them died, and the steps will be taken again."""
    kept = [entry for entry in read_trainer_log(path) if entry["current_steps"] <= step]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def seconds(clock: str) -> float:
    """`1:02:03` or `2 days, 1:02:03` in seconds."""
    days, _, time = clock.rpartition(", ")
    hours, minutes, rest = map(float, time.split(":"))
    return (float(days.split()[0]) * 24 if days else 0.0) * 3600 + hours * 3600 + minutes * 60 + rest


def log_records(entries: list[dict]) -> list[dict]:
    """Records `{step, epoch, loss, lr, eval_loss, elapsed}`, one per step that was logged, ascending.

    The training loss and the evaluation loss of one step are one record; what was not measured is left out. `elapsed`
    is in seconds and goes on over a resumed run, whose own clock starts again.
    """
    records: dict[int, dict] = {}
    offset, last = 0.0, 0.0
    for entry in entries:
        clock = seconds(entry.get("elapsed_time", "0:00:00"))
        if clock < last:
            offset += last
        last = clock
        record = records.setdefault(entry["current_steps"], {"step": entry["current_steps"]})
        for name in ("epoch", "loss", "lr", "eval_loss"):
            if name in entry:
                record[name] = entry[name]
        record["elapsed"] = offset + clock
    return [records[step] for step in sorted(records) if {"loss", "eval_loss"} & set(records[step])]
