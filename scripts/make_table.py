"""Build one table from raw records: CSV at --output; Markdown, LaTeX, HTML and its companions' CSV beside it."""

from tir.analysis.tables import build, kind
from tir.analysis.tables.files import write_tables
from tir.analysis.tables.inputs import Inputs
from tir.common import cli
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--table", required=True, help="table1, table2, ...; any other name gets Table 5's layout")
    parse.add_argument("--output", required=True, help="CSV file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    tables = build(arguments.table, Inputs.from_arguments(arguments), arguments.params)
    write_tables(
        tables,
        arguments.output,
        config=arguments.params,
        packages=("numpy", "pandas", "scipy", "statsmodels"),
        code=code_digest("scripts.make_table", kind(arguments.table).module),
    )


if __name__ == "__main__":
    cli.run(main)
