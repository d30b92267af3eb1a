"""Write the world's SFT trajectories as Alpaca JSON, with results of executed tools."""

from __future__ import annotations

from tir.common import cli
from tir.config.params import read
from tir.config.world import WorldSettings
from tir.tools.python_tool import PythonToolConfig
from tir.tools.search_tool import SearchToolConfig
from tir.world.files import write_trajectories


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--world", required=True, help="directory of the world")
    parse.add_argument("--index", required=True, help="directory of the index over its corpus")
    parse.add_argument("--output", required=True, help="JSON file to write")
    arguments = parse.parse_args()
    given = read(arguments, world=WorldSettings, python=PythonToolConfig, search=SearchToolConfig)
    write_trajectories(
        arguments.world, arguments.index, arguments.output, given.world, python=given.python, search=given.search
    )


if __name__ == "__main__":
    cli.run(main)
