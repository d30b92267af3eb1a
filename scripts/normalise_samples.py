"""Synthesis, step 2: remove wrong, broken and repeated trajectories, and questions that are duplicates or leaked."""

import sys
from pathlib import Path

from tir.common.cli import parser, run
from tir.common.records import read_jsonl, write_json, write_jsonl
from tir.config.params import read
from tir.config.synthesis import Normalisation
from tir.data.benchmarks import load_items
from tir.data.rl_rows import read_rl_rows
from tir.synthesis.normalise import normalise

FIELDS = ("id", "task", "question", "gold", "source", "samples", "lost")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--samples", required=True, help="records of step 1 (JSON Lines)")
    arguments.add_argument("--benchmarks", nargs="*", default=[], help="benchmark files whose questions are removed")
    arguments.add_argument("--validation", required=True, help="RL validation file, Parquet, likewise")
    arguments.add_argument("--output", required=True, help="questions with their trajectories (JSON Lines)")
    arguments.add_argument("--report", required=True, help="what each rule removed (JSON)")
    options = arguments.parse_args()
    known = {Path(path).stem: [item.question for item in load_items(path)] for path in options.benchmarks}
    known[Path(options.validation).stem] = [row["question"] for row in read_rl_rows(options.validation)]
    rules = read(options, normalisation=Normalisation).normalisation
    rows, report = normalise(read_jsonl(options.samples, FIELDS), known, rules)
    for name in ("questions", "trajectories"):
        print(f"{name}:", ", ".join(f"{key} {value}" for key, value in report[name].items() if value), file=sys.stderr)
    write_json(options.report, report)
    write_jsonl(options.output, rows)


if __name__ == "__main__":
    run(main)
