"""Draw one figure from raw records: PNG at --output, SVG beside it."""

from tir.analysis.figures import draw, kind
from tir.analysis.plot_style import save
from tir.analysis.tables.inputs import Inputs
from tir.common import cli
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--figure", required=True, help="figure1, figure2, ..., or phase")
    parse.add_argument("--output", required=True, help="PNG file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    figure = draw(arguments.figure, Inputs.from_arguments(arguments), arguments.params)
    save(
        figure,
        arguments.output,
        config=arguments.params,
        code=code_digest("scripts.make_figure", kind(arguments.figure).module),
    )


if __name__ == "__main__":
    cli.run(main)
