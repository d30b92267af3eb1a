"""Convert LLaMA-Factory's `trainer_log.jsonl` into log records: step, epoch, loss, learning rate, time."""

from __future__ import annotations

import json
from pathlib import Path


def read_trainer_log(path: Path) -> list[dict]:
    """Entries of `trainer_log.jsonl`, without an incomplete last line; empty if the file does not exist."""
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
    """Delete the entries after a step, because a resumed run repeats these steps."""
    kept = [entry for entry in read_trainer_log(path) if entry["current_steps"] <= step]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def seconds(clock: str) -> float:
    """Convert `1:02:03` or `2 days, 1:02:03` to seconds."""
    days, _, time = clock.rpartition(", ")
    hours, minutes, rest = map(float, time.split(":"))
    return (float(days.split()[0]) * 24 if days else 0.0) * 3600 + hours * 3600 + minutes * 60 + rest


def log_records(entries: list[dict]) -> list[dict]:
    """Records `{step, epoch, loss, lr, eval_loss, elapsed}`, one per logged step, ascending.

    `tir.sft.train` adds the same `train_rows`, `held_out_rows` and, on GPUs, `gpus` to each.

    Training loss and evaluation loss of a step are in one record; missing values are omitted. `elapsed` is the total
    time in seconds over all attempts of the run, although the clock of each attempt starts at 0.
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
