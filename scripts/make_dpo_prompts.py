"""Write the questions of the first RL rows as items, one file per task: the prompts that DPO samples from."""

from __future__ import annotations

import sys
from pathlib import Path

from tir.common import cli
from tir.common.records import write_jsonl
from tir.config.params import read
from tir.dpo.prompts import dpo_prompts


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--rows", required=True, help="RL rows, Parquet")
    parse.add_argument("--output-dir", required=True, help="folder for math.jsonl and qa.jsonl")
    arguments = parse.parse_args()
    for task, items in dpo_prompts(arguments.rows, read(arguments, rows=int).rows).items():
        print(f"dpo: {len(items)} prompts of {task}", file=sys.stderr)
        write_jsonl(Path(arguments.output_dir) / f"{task}.jsonl", items)


if __name__ == "__main__":
    cli.run(main)
