"""Collect what each finished job used into one table."""

from tir.cli import parser, run
from tir.resources import collect, write


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--benchmarks", required=True, help="directory of benchmark files")
    arguments.add_argument("--reports", nargs="*", default=[], help="efficiency reports of the Slurm plugin")
    arguments.add_argument("--output", required=True)
    options = arguments.parse_args()
    write(collect(options.benchmarks, options.params, options.reports), options.output)


if __name__ == "__main__":
    run(main)
