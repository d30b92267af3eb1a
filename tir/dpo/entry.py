"""LLaMA-Factory's DPO in one process or one per GPU; `tir.sft.launcher` starts it: `python -m tir.dpo.entry DIR`.

It differs from `llamafactory-cli train` as `tir.sft.entry` does: every process ends with its parent and ignores
SIGTERM, and the callback of `tir.sft.callback` saves checkpoints and ends the run when the launcher asks for it. The
Trainer is that of `tir.dpo.trainer`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tir.common import tracking
from tir.sft.entry import main


def _use_our_trainer(_schedule: dict) -> None:
    from llamafactory.train.dpo import trainer

    from tir.dpo.trainer import Trainer

    trainer.CustomDPOTrainer = Trainer  # LLaMA-Factory imports it from there when a training begins


if __name__ == "__main__":
    tracking.run(lambda: main(Path(sys.argv[1]), "tir.dpo.entry", _use_our_trainer))
