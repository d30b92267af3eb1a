"""Build one table from raw records: CSV at --output, Markdown and LaTeX beside it, companions as {stem}_{name}.csv."""

from tir import cli
from tir.tables import build, module
from tir.tables.inputs import Inputs
from tir.tables.files import write_tables
from tir.workflow import code


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--table", required=True, help="table1, table2, ...; another name has Table 5's layout")
    parse.add_argument("--output", required=True, help="CSV file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    tables = build(arguments.table, Inputs.from_arguments(arguments), arguments.params)
    write_tables(
        tables,
        arguments.output,
        config=arguments.params,
        packages=("numpy", "scipy", "statsmodels"),
        seed=arguments.params.get("statistics", {}).get("seed"),
        code=code("scripts.make_table", module(arguments.table)),
    )


if __name__ == "__main__":
    cli.run(main)
