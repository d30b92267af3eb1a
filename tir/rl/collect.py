"""Results of a finished run: collect metrics, rollouts and policies; then delete checkpoints and records."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tir.common.errors import CheckpointError
from tir.common.records import write_jsonl
from tir.config.rl import Rl
from tir.rl.metrics import check_finite, collect_records, merge_logs, write_rollouts


def collect(directory: Path, rl: Rl) -> list[Path]:
    """Write metrics and rollouts of a run that has reached its last step; return its policies, one per saved step.

    May be called again until `delivered`. Raises `CheckpointError` if a policy is missing, and `NotFinite` if a step's
    loss or gradient is not finite.
    """
    policies = [directory / "policies" / f"step{step}" for step in range(rl.save_every, rl.steps + 1, rl.save_every)]
    missing = [path for path in policies if not path.is_dir()]
    if missing:
        raise CheckpointError(
            "a saved step has no policy",
            where=str(missing[0]),
            why="the directory does not exist",
            remedy=f"rm -r {directory}  # then run again, from step 0",
        )
    if (directory / "records").is_dir():
        records = collect_records(directory / "records")
        rows = merge_logs(verl_logs(directory), records)
        for row in rows:
            check_finite(row["step"], row, directory)
        # A resumed run logs the step that it starts from a second time, with validation metrics only.
        absent = sorted(set(range(1, rl.steps + 1)) - {row["step"] for row in rows if "response_length/mean" in row})
        if absent:
            print(
                f"warning: no metrics of steps {absent}: verl was killed after saving and before logging them",
                file=sys.stderr,
            )
        write_rollouts(records, directory / "rollouts")
        write_jsonl(directory / "metrics.jsonl", rows)
    for path in set((directory / "policies").iterdir()) - set(policies):  # extra checkpoints before a time limit
        shutil.rmtree(path)
    return policies


def delivered(directory: str | os.PathLike) -> None:
    """Delete checkpoints and records, after the caller has copied metrics and policies to their destination.

    Not earlier: if the disk fills up while gigabytes of policies are copied, the run can still be collected again.
    """
    for name in ("records", "checkpoints"):
        shutil.rmtree(Path(directory) / name, ignore_errors=True)


def verl_logs(directory: Path) -> list[Path]:
    """Logs that verl wrote, one per attempt, oldest first."""
    return sorted((directory / "logs").glob("verl_*.jsonl"))
