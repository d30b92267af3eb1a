"""Cut two fine-tuning files to the same number of rows, each a seeded sample in its own order."""

from random import Random

from tir.common.cli import parser, run
from tir.config.params import read
from tir.data.alpaca import read_alpaca, write_alpaca


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--files", nargs=2, required=True, help="two files, Alpaca JSON")
    arguments.add_argument("--outputs", nargs=2, required=True, help="the files to write")
    options = arguments.parse_args()
    seed = read(options, seed=int).seed
    files = [read_alpaca(path) for path in options.files]
    count = min(map(len, files))
    for rows, output in zip(files, options.outputs, strict=True):
        kept = sorted(Random(f"equal rows:{seed}").sample(range(len(rows)), count))
        write_alpaca(output, [rows[number] for number in kept])


if __name__ == "__main__":
    run(main)
