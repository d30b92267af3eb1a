"""Fetch one input file from its configured source."""

from tir.common.cli import parser, run
from tir.config.params import read
from tir.config.sources import Source
from tir.data.sources import fetch_file


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--name", required=True, help="name of the file, e.g. benchmarks/gsm8k.jsonl")
    arguments.add_argument("--output", required=True, help="file to write")
    options = arguments.parse_args()
    fetch_file(options.name, read(options, source=Source).source.model_dump(mode="json"), options.output)


if __name__ == "__main__":
    run(main, host=True)
