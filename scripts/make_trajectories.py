"""Write the world's supervised trajectories as Alpaca JSON, their tool results made by running the tools."""

from __future__ import annotations

from tir import cli
from tir.world.files import write_trajectories


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--world", required=True, help="directory of the world")
    parse.add_argument("--index", required=True, help="directory of the index over its corpus")
    parse.add_argument("--output", required=True, help="JSON file to write")
    arguments = parse.parse_args()
    write_trajectories(arguments.world, arguments.index, arguments.output, arguments.params)


if __name__ == "__main__":
    cli.run(main)
