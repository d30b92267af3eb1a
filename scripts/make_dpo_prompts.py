"""Write the questions of the first RL rows as items, one file per task: the prompts that DPO samples from."""

from __future__ import annotations

import sys
from pathlib import Path

from tir.common import cli
from tir.common.errors import DataError
from tir.common.records import write_jsonl
from tir.config.params import read
from tir.data.rl_rows import ABILITIES, golds_of, read_rl_rows


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--rows", required=True, help="RL rows, Parquet")
    parse.add_argument("--output-dir", required=True, help="folder for math.jsonl and qa.jsonl")
    arguments = parse.parse_args()
    rows = list(enumerate(read_rl_rows(arguments.rows, read(arguments, rows=int).rows)))
    answered = [(number, row) for number, row in rows if all(map(str.strip, golds_of(row)))]
    for task in ABILITIES:
        items = [
            {"row": number, "question": row["question"], "answer": golds_of(row)}
            for number, row in answered
            if row["ability"] == task
        ]
        if not items:
            raise DataError(
                f"no prompt of {task}",
                where=f"{arguments.rows}: dpo.pairs.rows",
                why=f"the first {len(rows)} rows have none; DPO samples prompts of {' and '.join(ABILITIES)}",
                remedy=f"dpo: {{pairs: {{rows: {10 * len(rows)}}}}}",
            )
        print(f"dpo: {len(items)} prompts of {task}", file=sys.stderr)
        write_jsonl(Path(arguments.output_dir) / f"{task}.jsonl", items)
    if len(answered) < len(rows):
        print(f"dpo: left out {len(rows) - len(answered)} rows with a blank answer", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
