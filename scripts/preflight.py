"""Check in seconds, without a GPU, that a long run can work here; print one table."""

from tir.cli import parser, run
from tir.preflight import preflight, require, table
from tir.records import read_json


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--needs", required=True, help="JSON file: what to look at")
    findings = preflight(read_json(arguments.parse_args().needs))
    print(table(findings), flush=True)
    require(findings)


if __name__ == "__main__":
    run(main)
