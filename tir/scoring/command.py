"""The command `tir-score`: reads answers with their gold answers, prints every metric of each."""

from __future__ import annotations

import argparse
import json
import sys

from tir.common.cli import command
from tir.common.records import read_jsonl

_INSTALL = "pip install '.[scoring]'  # in a clone of the repository"


def main() -> None:
    """Command line."""
    command(_main, _INSTALL)


def _main() -> None:
    parse = argparse.ArgumentParser(
        "tir-score",
        description='Score JSON Lines {"answer", "gold"}. An answer is a text or null; a gold answer is a text or a '
        "list of accepted texts. `id` and `sample` are kept. Prints one JSON object of metrics per row.",
    )
    parse.add_argument("file", metavar="FILE", nargs="?", default="/dev/stdin", help="default: standard input")
    parse.add_argument("--task", required=True, choices=["math", "qa", "web"], help="which metrics")
    parse.add_argument("--f1-threshold", type=float, default=0.5, help="smallest F1 of a correct qa or web answer")
    arguments = parse.parse_args()

    from tir.scoring.score import score_traces

    rows = read_jsonl(arguments.file, ("answer", "gold"))
    traces = [{"id": number, "sample": 0, "finish": "answer", **row} for number, row in enumerate(rows, 1)]
    records, _ = score_traces(traces, task=arguments.task, f1_threshold=arguments.f1_threshold)
    for record in records:
        print(json.dumps(record, ensure_ascii=False))
    sys.stdout.flush()
    print(f"{sum(record['correct'] for record in records)} of {len(records)} correct", file=sys.stderr)


if __name__ == "__main__":
    main()
