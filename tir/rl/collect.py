"""What a finished run is worth keeping: metrics, rollouts, policies; and what goes once they are delivered."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tir.errors import CheckpointError
from tir.records import write_jsonl
from tir.rl.metrics import collect_records, merge_logs, write_rollouts
from tir.rl.settings import RlSettings


def collect(directory: Path, settings: RlSettings) -> list[Path]:
    """Write metrics and rollouts of a run that has reached its last step; returns its policies, one per saved step.

    May be repeated until the run is `delivered`. Raises `CheckpointError` if a policy is missing.
    """
    policies = [directory / "policies" / f"step{step}" for step in range(settings.save_every, settings.steps + 1, settings.save_every)]
    missing = [path for path in policies if not path.is_dir()]
    if missing:
        raise CheckpointError("a saved step has no policy", where=str(missing[0]), remedy=f"rm -r {directory}  # then run again")
    if (directory / "records").is_dir():
        records = collect_records(directory / "records")
        rows = merge_logs(verl_logs(directory), records)
        # A resumed run logs the step it starts from again, for its validation alone.
        absent = sorted(set(range(1, settings.steps + 1)) - {row["step"] for row in rows if "response_length/mean" in row})
        if absent:
            print(f"warning: no metrics of steps {absent}; verl was killed after saving and before logging", file=sys.stderr)
        write_rollouts(records, directory / "rollouts")
        write_jsonl(directory / "metrics.jsonl", rows)
    for path in set((directory / "policies").iterdir()) - set(policies):  # of a checkpoint before a time limit
        shutil.rmtree(path)
    return policies


def delivered(directory: str | os.PathLike) -> None:
    """Remove what a run resumes from: its metrics and policies are where they are wanted.

    Not before: a disk that fills while gigabytes of policies are copied would otherwise cost the whole run.
    """
    for name in ("records", "checkpoints"):
        shutil.rmtree(Path(directory) / name, ignore_errors=True)


def verl_logs(directory: Path) -> list[Path]:
    """verl's logs of a run's attempts, oldest first."""
    return sorted((directory / "logs").glob("verl_*.jsonl"))
