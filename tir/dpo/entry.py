"""LLaMA-Factory's DPO in one process or in one per GPU; `tir.dpo.train` starts it: `python -m tir.dpo.entry DIR`.

It differs from `llamafactory-cli train` as `tir.sft.entry` does: every process ends with its parent and ignores
SIGTERM, and the callback of `tir.sft.callback` saves checkpoints and ends the run when the launcher asks for it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tir.common.records import read_json
from tir.common.subprocesses import end_with_parent
from tir.sft.entry import ALIVE, PARENT, RECIPE, SCHEDULE, STOP


def main(directory: Path) -> None:
    """Train as the files `recipe.yaml` and `schedule.json` of a run's directory say."""
    end_with_parent(signal.SIGKILL, int(os.environ[PARENT]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    schedule = read_json(directory / SCHEDULE)
    if not schedule["launch"] or "LOCAL_RANK" in os.environ:
        return _train(directory, schedule)
    from torch.distributed.run import main as torchrun

    os.environ[PARENT] = str(os.getpid())
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(schedule["processes"])]
    torchrun([*options, "--signals-to-handle", "SIGQUIT", "--module", "tir.dpo.entry", str(directory)])


def _train(directory: Path, schedule: dict) -> None:
    import torch
    import yaml
    from llamafactory.train.tuner import run_exp

    from tir.sft.callback import Checkpoints

    # The Trainer loads the optimizer to the device `cpu:0`, which torch knows only as `cpu`.
    torch.serialization.register_package(0, lambda _: None, lambda data, where: data if where[:4] == "cpu:" else None)
    recipe = yaml.safe_load((directory / RECIPE).read_text(encoding="utf-8"))
    callback = Checkpoints(directory / STOP, directory / ALIVE, schedule["boundaries"], schedule["within"])
    run_exp(recipe, callbacks=[callback])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
