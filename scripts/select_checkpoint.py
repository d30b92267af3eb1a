"""Make the epoch with the lowest evaluation loss the model `sft`."""

from __future__ import annotations

import sys

from tir import cli
from tir.sft.select import select_checkpoint


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--log", required=True, help="log.jsonl of the run")
    parse.add_argument("--models", required=True, nargs="+", help="manifests of the epochs' models")
    parse.add_argument("--output", required=True, help="directory of the selected model")
    arguments = parse.parse_args()
    manifest = select_checkpoint(arguments.log, arguments.models, arguments.output)
    print(f"selected {manifest['selected']}, eval loss {manifest['eval_loss']}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
