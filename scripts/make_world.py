"""Write the generated world: corpus, benchmarks and RL data in the upstream file formats."""

from __future__ import annotations

from tir.common import cli
from tir.config.params import read
from tir.config.world import WorldSettings
from tir.world.files import write_world


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output-dir", required=True, help="directory to write the world into")
    arguments = parse.parse_args()
    write_world(arguments.output_dir, read(arguments, world=WorldSettings).world)


if __name__ == "__main__":
    cli.run(main)
