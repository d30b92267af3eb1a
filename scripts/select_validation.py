"""Choose the validation rows of RL."""

import sys

from tir.cli import parser, run
from tir.data.benchmarks import load_items
from tir.data.validation import load_parquet, select_validation
from tir.records import atomic_path


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", required=True, help="upstream test file, Parquet")
    arguments.add_argument("--benchmarks", nargs="*", default=[], help="benchmark files")
    arguments.add_argument("--output", required=True)
    options = arguments.parse_args()
    questions = (item.question for path in options.benchmarks for item in load_items(path))
    wanted = options.params
    chosen, report = select_validation(load_parquet(options.rows), questions, count=wanted["rows"],
                                       select=wanted["select"], decontaminate=wanted["decontaminate"], seed=wanted["seed"])
    print("validation set:", ", ".join(f"{name} {value}" for name, value in report.items()), file=sys.stderr)
    with atomic_path(options.output) as temporary:
        chosen.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run(main)
