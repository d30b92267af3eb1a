"""Make a model directory (hard links) from one epoch of a run: a given one, or the one of lowest evaluation loss."""

from __future__ import annotations

import sys

from tir.common import cli
from tir.sft.select import select_checkpoint


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--models", required=True, help="directory with the run's models sft-epoch{n}")
    parse.add_argument("--log", required=True, help="log.jsonl of the run")
    parse.add_argument("--epoch", default="best", help="number of an epoch, or best: the lowest evaluation loss")
    parse.add_argument("--output", required=True, help="model directory to write")
    arguments = parse.parse_args()
    epoch = None if arguments.epoch == "best" else int(arguments.epoch)
    manifest = select_checkpoint(arguments.models, arguments.log, arguments.output, epoch)
    print(f"{arguments.output} is epoch {manifest['epoch']} (step {manifest['step']})", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
