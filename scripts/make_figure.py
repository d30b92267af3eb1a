"""Draw one figure from raw records: PNG at --output, the same as SVG beside it."""

from tir import cli
from tir.figures import draw, module
from tir.plot_style import save
from tir.tables.inputs import Inputs
from tir.workflow import code


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--figure", required=True, help="figure1 to figure8")
    parse.add_argument("--output", required=True, help="PNG file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    figure = draw(arguments.figure, Inputs.from_arguments(arguments), arguments.params)
    save(figure, arguments.output, config=arguments.params, code=code("scripts.make_figure", module(arguments.figure)))


if __name__ == "__main__":
    cli.run(main)
