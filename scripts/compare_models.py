"""Compare two models item by item, as one HTML page at --output."""

from pathlib import Path

from tir.analysis.compare.page import page
from tir.analysis.origin import describe
from tir.analysis.tables.inputs import Inputs
from tir.common import cli
from tir.common.records import write_provenance, write_text
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output", required=True, help="HTML file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    origin = describe(arguments.params, map(Path, arguments.model))
    write_text(arguments.output, page(Inputs.from_arguments(arguments), arguments.params, origin))
    write_provenance(
        arguments.output,
        config=arguments.params,
        packages=("numpy", "scipy", "statsmodels"),
        code=code_digest("scripts.compare_models"),
    )


if __name__ == "__main__":
    cli.run(main)
