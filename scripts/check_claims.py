"""Recompute the paper's claims from raw records: JSON at --output, a table (CSV, Markdown, LaTeX) beside it."""

from pathlib import Path

from tir import cli
from tir.claims.report import check, table
from tir.records import write_json, write_provenance
from tir.tables.inputs import Inputs
from tir.tables.files import write_tables
from tir.workflow import code


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output", required=True, help="JSON file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    records = check(Inputs.from_arguments(arguments), arguments.params)
    write_json(arguments.output, records)
    facts = {"config": arguments.params, "packages": ("numpy", "scipy", "statsmodels"), "code": code("scripts.check_claims")}
    write_provenance(arguments.output, **facts)
    written = table(records)
    write_tables({"": written}, Path(arguments.output).with_suffix(".csv"), **facts)
    print(written.notes[0])


if __name__ == "__main__":
    cli.run(main)
