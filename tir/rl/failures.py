"""Why verl failed: the cause that a trajectory recorded, or the last error of its output."""

from __future__ import annotations

from pathlib import Path

from tir.common.errors import InfrastructureFault, TirError
from tir.common.records import read_json

_START_ERRORS = ("timed out during startup", "Address already in use")  # texts of Ray's and of the system's errors


class StartFailed(InfrastructureFault):
    """verl did not start: Ray's limit of 30 s has passed, or another process took a port. No step was trained."""


class TrainingFailed(TirError):
    """verl ended with an error that is not an infrastructure fault."""


def check_ended(directory: Path, status: int) -> None:
    """Raise the cause if verl failed.

    Args:
        directory: the run directory, which has verl's output and the first fault of a trajectory, if there was one.
        status: exit status of verl.

    Raises:
        InfrastructureFault: a tool, the rollout engine or the machine failed.
        StartFailed: verl did not start.
        TrainingFailed: verl failed for another reason, which the error contains.
    """
    fault = directory / "fault.json"
    if fault.exists():
        cause = read_json(fault)
        kind = InfrastructureFault if cause["infrastructure"] else TrainingFailed
        raise kind(
            "a trajectory failed",
            where=str(fault),
            why=f"{cause['type']}: {cause['text']}",
            remedy="run the same command again; it continues from the last checkpoint",
        )
    if status:
        log = directory / "verl.log"
        error = _last_error(log)
        if any(text in error for text in _START_ERRORS):
            raise StartFailed(
                "verl did not start",
                where=str(log),
                why=error,
                remedy="run the same command again; if Ray's start timed out, on a less loaded machine",
            )
        raise TrainingFailed(
            f"verl ended with status {status}",
            where=str(log),
            why=error,
            remedy="fix the cause and run the same command again; it continues from the last checkpoint",
        )


def _last_error(log: Path) -> str:
    """The last line of verl's output that starts with the name of an exception; if there is none, the last line."""
    lines = [
        line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-400:] if line.strip()
    ]
    named = [
        line for line in lines if line.split(":")[0].rstrip().endswith(("Error", "Exception", "Fault", "Unavailable"))
    ]
    return (named or lines or ["no output"])[-1][:500]
