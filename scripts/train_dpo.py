"""Train a policy on its preference pairs with LLaMA-Factory; write the model. Run again to resume."""

from __future__ import annotations

import argparse
from pathlib import Path

from tir.common import cli
from tir.common.model_files import check_weights
from tir.common.records import digest, file_digest, read_json, write_provenance
from tir.common.schema import Device
from tir.common.tracking import TrackedRun, add_argument, prepare
from tir.config.dpo import Dpo
from tir.config.params import read
from tir.dpo.recipe import DpoRun
from tir.dpo.train import train
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--policy", required=True, help="directory of the policy that the pairs were sampled from")
    parse.add_argument("--pairs", required=True, help="pairs (JSON Lines)")
    parse.add_argument("--run-dir", required=True, help="directory of the run's state and log")
    parse.add_argument("--output", required=True, help="model directory to write")
    parse.add_argument("--seed", required=True, type=int, help="seed of the run")
    add_argument(parse)
    arguments = parse.parse_args()
    check_weights(arguments.policy)
    given = read(arguments, dpo=Dpo, device=Device)
    run = DpoRun(given.dpo, given.device, arguments.seed)
    train(arguments.policy, arguments.pairs, arguments.run_dir, arguments.output, run, _tracked(arguments))
    write_provenance(
        Path(arguments.run_dir) / "log.jsonl",
        config=arguments.params,
        code=code_digest("scripts.train_dpo"),
        seed=arguments.seed,
        packages=("llamafactory", "trl", "peft", "transformers", "torch"),
        pairs=read_json(f"{str(arguments.pairs).removesuffix('.jsonl')}.report.json"),
    )


def _tracked(arguments: argparse.Namespace) -> TrackedRun:
    """The run in the trackers, under the id of the model that it makes."""
    config = {"seed": arguments.seed, **arguments.params, "config_digest": digest(arguments.params)}
    config |= {"code": code_digest("scripts.train_dpo"), "pairs": file_digest(arguments.pairs)}
    return prepare(arguments.tracking, Path(arguments.output).name, config)


if __name__ == "__main__":
    cli.run(main)
