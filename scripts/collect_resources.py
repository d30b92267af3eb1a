"""Write one table of the time, memory and GPU hours of every finished job."""

from tir.common.cli import parser, run
from tir.workflow.resources import collect, write


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--benchmarks", required=True, help="directory of Snakemake's benchmark files")
    arguments.add_argument("--reports", nargs="*", default=[], help="efficiency reports of the Slurm plugin")
    arguments.add_argument("--output", required=True, help="CSV file to write")
    options = arguments.parse_args()
    write(collect(options.benchmarks, options.reports), options.output)


if __name__ == "__main__":
    run(main)
