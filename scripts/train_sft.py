"""Fine-tune the base model with LLaMA-Factory; write one model directory per epoch. Run again to resume."""

from __future__ import annotations

import argparse
from pathlib import Path

from tir.common import cli
from tir.common.model_files import check_weights
from tir.common.records import digest, file_digest
from tir.common.schema import Device
from tir.common.tracking import TrackedRun, add_argument, prepare
from tir.common.trainable import check_trainable
from tir.config.params import read
from tir.config.sft import Sft
from tir.sft.run import SftRun
from tir.sft.train import train
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--base", required=True, help="directory of the base model")
    parse.add_argument("--data", required=True, help="trajectories, Alpaca JSON")
    parse.add_argument("--run-dir", required=True, help="directory of the run's state and log")
    parse.add_argument("--models-dir", required=True, help="directory for the models sft-epoch{n}")
    add_argument(parse)
    arguments = parse.parse_args()
    check_weights(arguments.base)
    given = read(arguments, sft=Sft, device=Device, leading_space=bool)
    check_trainable(arguments.base, arguments.base, given.sft.cutoff_tokens)
    train(
        arguments.base,
        arguments.data,
        arguments.run_dir,
        arguments.models_dir,
        SftRun(given.sft, given.device, given.leading_space),
        _tracked(arguments),
    )


def _tracked(arguments: argparse.Namespace) -> TrackedRun:
    """The run in the trackers, under the id of the model that comes from it."""
    run = Path(arguments.run_dir).name
    config = {"run": run, **arguments.params, "config_digest": digest(arguments.params)}
    config |= {"code": code_digest("scripts.train_sft"), "data": file_digest(arguments.data)}
    return prepare(arguments.tracking, "sft" if run == "full" else f"sft-{run}", config)


if __name__ == "__main__":
    cli.run(main)
