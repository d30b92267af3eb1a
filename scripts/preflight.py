"""Check in seconds, without a GPU, that a long run can work here; print one table."""

from tir.cli import parser, run
from tir.preflight import preflight, require, table


def main() -> None:
    options = parser(__doc__).parse_args()
    findings = preflight(options.params)
    print(table(findings), flush=True)
    require(findings)


if __name__ == "__main__":
    run(main)
