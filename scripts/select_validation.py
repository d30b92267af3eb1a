"""Select the validation rows of RL from upstream's test file."""

import sys

from tir.common.cli import parser, run
from tir.common.files import atomic_path
from tir.config.data import Validation
from tir.config.params import read
from tir.data.benchmarks import load_items
from tir.data.validation import load_parquet, select_validation


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", required=True, help="upstream test file, Parquet")
    arguments.add_argument("--benchmarks", nargs="*", default=[], help="benchmark files that the rows must not overlap")
    arguments.add_argument("--output", required=True, help="Parquet file to write")
    options = arguments.parse_args()
    questions = (item.question for path in options.benchmarks for item in load_items(path))
    validation = read(options, validation=Validation).validation
    selected, report = select_validation(
        load_parquet(options.rows),
        questions,
        count=validation.rows,
        select=validation.select,
        decontaminate=validation.decontaminate,
        seed=validation.seed,
    )
    print("validation set:", ", ".join(f"{name} {value}" for name, value in report.items()), file=sys.stderr)
    with atomic_path(options.output) as temporary:
        selected.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run(main)
