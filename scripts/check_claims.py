"""Test the paper's claims on raw records: JSON at --output, a table (CSV, Markdown, LaTeX, HTML) beside it."""

from pathlib import Path

from tir.analysis.claims.report import check, table
from tir.analysis.origin import describe
from tir.analysis.tables.files import write_tables
from tir.analysis.tables.inputs import Inputs
from tir.common import cli
from tir.common.records import write_json, write_provenance
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--output", required=True, help="JSON file to write")
    Inputs.add_arguments(parse)
    arguments = parse.parse_args()
    inputs = Inputs.from_arguments(arguments)
    records = check(inputs, arguments.params)
    write_json(arguments.output, records)
    provenance = {
        "config": arguments.params,
        "packages": ("numpy", "pandas", "scipy", "statsmodels"),
        "code": code_digest("scripts.check_claims"),
    }
    write_provenance(arguments.output, **provenance)
    claims = table(records, describe(arguments.params, inputs.model))
    write_tables({"": claims}, Path(arguments.output).with_suffix(".csv"), **provenance)
    print(claims.notes[0])


if __name__ == "__main__":
    cli.run(main)
