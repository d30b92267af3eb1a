"""Fetch one input file from the source its configuration names."""

from tir.cli import parser, run
from tir.data.sources import fetch_file


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, help="what the file is, e.g. benchmarks/gsm8k.jsonl")
    arguments.add_argument("--output", required=True)
    options = arguments.parse_args()
    fetch_file(options.name, options.params, options.output)


if __name__ == "__main__":
    run(main)
