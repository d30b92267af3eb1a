"""Draw one figure from raw records: PNG at --output, the same as SVG beside it."""

from scripts.make_table import SOURCES
from tir import cli
from tir.figures import draw
from tir.plot_style import save
from tir.tables.inputs import Inputs


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--figure", required=True, help="figure1 to figure8")
    parse.add_argument("--output", required=True, help="PNG file to write")
    for source in SOURCES:
        parse.add_argument(f"--{source}", f"--{source}-dir", nargs="*", default=[], help=f"{source}: files or their directory")
    arguments = parse.parse_args()
    inputs = Inputs(**{source: getattr(arguments, source) for source in SOURCES})
    save(draw(arguments.figure, inputs, arguments.params), arguments.output, config=arguments.params)


if __name__ == "__main__":
    cli.run(main)
