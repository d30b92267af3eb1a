"""Synthesis, step 3: questions by difficulty become fine-tuning rows and RL prompts; a data card describes them."""

import os
import sys
from pathlib import Path

from tir.common.cli import parser, run
from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl, write_json, write_text
from tir.config.params import read
from tir.config.synthesis import Classification
from tir.data.alpaca import write_alpaca
from tir.data.rl_rows import write_rl_rows
from tir.synthesis.card import card, describe, teacher_facts
from tir.synthesis.classify import classify
from tir.synthesis.mixed import mixed_count, mixed_rows
from tir.tools.python_tool import PythonTool, PythonToolConfig


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--questions", required=True, help="questions of step 2 (JSON Lines)")
    arguments.add_argument("--report", required=True, help="report of step 2 (JSON)")
    arguments.add_argument("--teacher", required=True, help="which teacher made the samples (JSON)")
    arguments.add_argument("--system-prompt", required=True, help="text file, the instruction of every row")
    arguments.add_argument("--output-dir", required=True, help="folder for sft.json, rl_train.parquet and card.md")
    options = arguments.parse_args()
    given = read(options, classification=Classification, python=PythonToolConfig, facts=dict[str, str])
    rules, output = given.classification, Path(options.output_dir)
    instruction = Path(options.system_prompt).read_text(encoding="utf-8")
    rows = read_jsonl(
        options.questions, ("id", "task", "question", "gold", "source", "direct", "tools", "trajectories")
    )
    sft, rl, report = classify(rows, instruction, rules)
    if not sft:
        raise DataError(
            "no fine-tuning rows are left",
            where=str(output / "sft.json"),
            why=f"of {len(rows)} questions, {len(rl)} are hard and {report['without_row']} have no good trajectory; "
            f"{options.report} counts what each rule removed",
            remedy="synthesis: {sampling: {direct: 8, tools: 8}}  # or another teacher, or a lower right_share",
        )
    count = mixed_count(rules.mixed, len(sft))
    if count:
        with PythonTool(**dict(given.python) | {"workers": os.cpu_count() or 1}) as tool:
            both = mixed_rows(
                rows, count, lambda codes: [each.text for each in tool.run_many(codes)], instruction, rules.seed
            )
        print(f"{len(both)} of {count} mixed rows made", file=sys.stderr)
        count, sft = count - len(both), _spread_in(sft, both)
    report = {**read_json(options.report), **report, **describe(sft, rl), "mixed_missing": count}
    write_alpaca(output / "sft.json", sft)
    write_rl_rows(output / "rl_train.parquet", rl)
    write_json(output / "report.json", report)
    write_text(output / "card.md", card(teacher_facts(read_json(options.teacher)) | given.facts, report))


def _spread_in(rows: list[dict], more: list[dict]) -> list[dict]:
    """Rows with others at equal distances among them."""
    every, result = len(rows) / max(len(more), 1), list(rows)
    for number, row in reversed(list(enumerate(more))):
        result.insert(round((number + 1) * every), row)
    return result


if __name__ == "__main__":
    run(main)
