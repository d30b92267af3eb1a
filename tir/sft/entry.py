"""LLaMA-Factory's trainer in one process or one per GPU; `tir.sft.launcher` starts it: `python -m tir.sft.entry DIR`.

It differs from `llamafactory-cli train` in three points. torch's launcher and every process of the run end when their
parent ends, even if it is killed. They ignore SIGTERM, which Slurm sends to all processes of a job, because only
`tir.sft.launcher` decides what it means. And the Trainer is that of `tir.sft.trainer` with the callback of
`tir.sft.callback`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tir.common import tracking
from tir.common.imports import without_collection
from tir.common.records import read_json
from tir.common.subprocesses import end_at_once, end_with_parent

PARENT = "TIR_PARENT"  # id of the process that this one must not outlive
RECIPE, SCHEDULE, STOP, ALIVE = "recipe.yaml", "schedule.json", "stop", "alive"  # files in the run's directory


def main(directory: Path, module: str, adapt: Callable[[dict], None] = lambda schedule: None) -> None:
    """Train as the files `recipe.yaml` and `schedule.json` of a run's directory say.

    Args:
        directory: the run's directory.
        module: the module that is running, for torch's launcher.
        adapt: changes LLaMA-Factory before it trains; gets the schedule.
    """
    end_with_parent(signal.SIGKILL, int(os.environ[PARENT]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    schedule = read_json(directory / SCHEDULE)
    if schedule["launch"] and "LOCAL_RANK" not in os.environ:
        _launch(directory, schedule["processes"], module)
    else:
        _train(directory, schedule, adapt)


def _launch(directory: Path, processes: int, module: str) -> None:
    """Start one process per GPU with torch's launcher, which ends all when one fails."""
    from torch.distributed.run import main as torchrun

    os.environ[PARENT] = str(os.getpid())
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    torchrun([*options, "--signals-to-handle", "SIGQUIT", "--module", module, str(directory)])


def _train(directory: Path, schedule: dict, adapt: Callable[[dict], None]) -> None:
    with without_collection():
        import torch
        import yaml
        from llamafactory.train.tuner import run_exp

        from tir.sft.callback import Checkpoints

    # The Trainer loads the optimizer to the device `cpu:0`, which torch calls only `cpu`.
    torch.serialization.register_package(0, lambda _: None, lambda data, where: data if where[:4] == "cpu:" else None)
    recipe = yaml.safe_load((directory / RECIPE).read_text(encoding="utf-8"))
    callback = Checkpoints(directory / STOP, directory / ALIVE, schedule["boundaries"], schedule["within"])
    adapt(schedule)
    run_exp(recipe, callbacks=[callback])
    if schedule["processes"] > 1:
        # Threads of gloo can still hold tensors. torch aborts if the interpreter ends before them (pytorch 179291).
        end_at_once(0)


def _use_our_trainer(schedule: dict) -> None:
    from llamafactory.train.sft import workflow

    from tir.sft.trainer import Trainer

    Trainer.schedule, workflow.CustomSeq2SeqTrainer = schedule, Trainer


if __name__ == "__main__":
    tracking.run(lambda: main(Path(sys.argv[1]), "tir.sft.entry", _use_our_trainer))
