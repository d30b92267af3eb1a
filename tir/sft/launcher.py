"""Start LLaMA-Factory in child processes and follow it: progress, a stall limit, and an end that saves a checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tir.common import subprocesses
from tir.common.environment import job_threads
from tir.common.errors import InfrastructureFault
from tir.common.records import write_json, write_text
from tir.common.schema import Device
from tir.sft import entry
from tir.sft.log import read_trainer_log

_POLL_SECONDS = 0.5
_CAUSE = re.compile(r"[\w.]*(Error|Exception|Fault)\b|traceback : Signal \d+")
_GRACE_SECONDS = {"cpu": 60.0, "cuda": 540.0}  # time to finish a step and save a checkpoint


def run_trainer(
    module: str,
    directory: Path,
    recipe: Mapping[str, Any],
    schedule: Mapping[str, Any],
    *,
    device: Device,
    stall_s: float,
    show: Callable[[Sequence[Mapping[str, Any]]], None],
    report: Callable[[str], None],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run a trainer to its end.

    Args:
        module: the trainer, e.g. `tir.sft.entry`; it gets the directory.
        directory: the run's directory.
        recipe: arguments of LLaMA-Factory.
        schedule: what `tir.sft.entry` and the trainer read.
        device: decides how long a step may take when the run is to end.
        stall_s: seconds without a finished step after which the run fails.
        show: prints new records of `trainer_log.jsonl`.
        report: prints a line.
        variables: further environment variables.

    Raises:
        InfrastructureFault: the trainer failed, or finished no step in time.
        KeyboardInterrupt: this process is to end; a checkpoint has been saved if the trainer did so in time.
    """
    import yaml

    write_text(directory / entry.RECIPE, yaml.safe_dump(dict(recipe), sort_keys=False))
    write_json(directory / entry.SCHEDULE, schedule)
    (directory / entry.STOP).unlink(missing_ok=True)
    log = directory / "llamafactory.log"
    child = subprocesses.start(
        [sys.executable, "-m", module, str(directory)],
        log,
        directory=directory,
        variables=_environment(device, schedule["processes"]) | dict(variables),
    )
    try:
        _follow(child, directory, subprocesses.StallLimit(stall_s, log), show)
    except KeyboardInterrupt:
        report("saving a checkpoint after the current step")
        (directory / entry.STOP).touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS[device])
        raise
    finally:
        subprocesses.kill(child)
    if child.returncode != 0:
        raise InfrastructureFault(
            "LLaMA-Factory failed",
            where=str(log),
            why=f"exit status {child.returncode}: {_cause(log)}",
            remedy="fix the cause and run the same command again; it resumes from the last complete checkpoint",
        )


def _environment(device: Device, processes: int) -> dict[str, str]:
    variables = {
        "OMP_NUM_THREADS": str(max(1, job_threads() // processes)),
        entry.PARENT: str(os.getpid()),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads sleep at barriers; on a busy machine, spinning delays the other threads
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    if device == "cpu":
        return variables | {"CUDA_VISIBLE_DEVICES": ""}
    return variables | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # as `llamafactory-cli` does


def _follow(
    child: subprocess.Popen,
    directory: Path,
    limit: subprocesses.StallLimit,
    show: Callable[[Sequence[Mapping[str, Any]]], None],
) -> None:
    """Show new records until the child process ends; raise `InfrastructureFault` if it finishes no step in time."""
    trainer_log, alive = directory / "checkpoints" / "trainer_log.jsonl", directory / entry.ALIVE
    shown, beat = len(read_trainer_log(trainer_log)), _changed(alive)
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        if (now := _changed(alive)) != beat:
            beat = now
            limit.progress()
        limit.check()
        entries = read_trainer_log(trainer_log)
        show(entries[shown:])
        shown = len(entries)


def _changed(path: Path) -> int:
    """Time of a file's last change, or 0."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _cause(log: Path) -> str:
    """The last line of the log that names an exception or a signal; if there is none, the last line."""
    lines = [re.sub(r"^\[rank\d+\]: ", "", line).strip() for line in subprocesses.tail(log, 200)]
    named = [line for line in lines if _CAUSE.match(line) and "ChildFailedError" not in line]
    return (named or lines or ["the log is empty"])[-1][:300]
