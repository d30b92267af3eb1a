"""Check in seconds, without a GPU, what a long run needs from this machine; print the findings as a table."""

from tir.common.cli import parser, run
from tir.common.records import read_json
from tir.workflow.findings import require, table
from tir.workflow.preflight import preflight


def main() -> None:
    arguments = parser(__doc__)
    path = ".snakemake/preflight.json"
    arguments.add_argument("--requirements", default=path, help="JSON file that a plan or a run writes")
    findings = preflight(read_json(arguments.parse_args().requirements))
    print(table(findings), flush=True)
    require(findings)


if __name__ == "__main__":
    run(main, host=True)
