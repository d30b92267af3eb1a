"""Build one table from raw records: CSV at --output, Markdown and LaTeX beside it, companions as {stem}_{name}.csv."""

from tir import cli
from tir.tables import build
from tir.tables.inputs import Inputs
from tir.tables.layout import write_tables

SOURCES = ("scores", "traces", "metrics", "logs", "data", "timings")


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--table", required=True, help="table1, table2, ...; another name has Table 5's layout")
    parse.add_argument("--output", required=True, help="CSV file to write")
    for source in SOURCES:
        parse.add_argument(f"--{source}", f"--{source}-dir", nargs="*", default=[], help=f"{source}: files or their directory")
    arguments = parse.parse_args()
    inputs = Inputs(**{source: getattr(arguments, source) for source in SOURCES})
    tables = build(arguments.table, inputs, arguments.params)
    write_tables(tables, arguments.output, config=arguments.params, packages=("numpy", "scipy", "statsmodels"),
                 seed=arguments.params.get("statistics", {}).get("seed"))


if __name__ == "__main__":
    cli.run(main)
