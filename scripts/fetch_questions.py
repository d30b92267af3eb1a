"""Fetch the questions of data synthesis, or generate them."""

from typing import Any

from tir.common.cli import parser, run
from tir.config.params import read
from tir.config.sources import Source
from tir.config.world import WorldSettings
from tir.synthesis.pool import fetch_questions


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--output", required=True, help="Parquet file to write")
    options = arguments.parse_args()
    given = read(options, source=Source, rows=int | None, world=WorldSettings | None)
    source: dict[str, Any] = given.source.model_dump(mode="json")
    fetch_questions(source, options.output, given.world, given.rows)


if __name__ == "__main__":
    run(main, host=True)
