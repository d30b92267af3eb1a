"""Write SFT rows for a rehearsal: real questions and answers in the format of the published data."""

from __future__ import annotations

from itertools import islice

from tir.common import cli
from tir.config.params import read
from tir.data.alpaca import write_alpaca
from tir.data.benchmarks import load_items
from tir.data.corpus_rows import corpus_row
from tir.data.rl_rows import read_rl_rows
from tir.world.rehearsal import rehearsal_rows

PASSAGES = 1000  # passages read, from the head of the corpus


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--rl", required=True, help="rows of RL training, Parquet")
    parse.add_argument("--benchmarks", nargs="*", default=[], help="benchmark files, JSON Lines")
    parse.add_argument("--corpus", required=True, help="passages, JSON Lines")
    parse.add_argument("--output", required=True, help="file to write, Alpaca JSON")
    options = parse.parse_args()
    given = read(options, rows=int, instruction=str)
    with open(options.corpus, "rb") as file:
        passages = [
            corpus_row(line, f"{options.corpus}:{number}")[1] for number, line in enumerate(islice(file, PASSAGES), 1)
        ]
    items = [item for path in options.benchmarks for item in load_items(path)]
    rows = rehearsal_rows(read_rl_rows(options.rl), items, passages, given.instruction, given.rows)
    write_alpaca(options.output, rows)


if __name__ == "__main__":
    cli.run(main)
