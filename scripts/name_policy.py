"""Move the policy that a part of an RL run made to its place among the models, under its id."""

from __future__ import annotations

import shutil
from pathlib import Path

from tir.common import cli
from tir.common.model_files import check_weights, read_model_manifest, write_manifest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--made", required=True, help="model directory that the run wrote")
    parse.add_argument("--policy", required=True, help="model directory of the policy that the part started from")
    parse.add_argument("--output", required=True, help="model directory: models/ARM-stepN-seedS")
    parse.add_argument("--arm", required=True, help="name of the arm")
    parse.add_argument("--step", required=True, type=int, help="step of RL, counted from the arm's first one")
    parse.add_argument("--seed", required=True, type=int, help="seed of the arm")
    options = parse.parse_args()
    check_weights(options.made)
    output, policy = Path(options.output), read_model_manifest(options.policy)["model"]
    facts = {"model": output.name, "arm": options.arm, "step": options.step, "seed": options.seed, "policy": policy}
    write_manifest(options.made, **facts)
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(options.made, output)


if __name__ == "__main__":
    cli.run(main)
