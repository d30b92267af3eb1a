"""Make DPO's preference pairs of sampled trajectories, tokenised for LLaMA-Factory, and a report about them."""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

from tir.common import cli
from tir.common.records import read_jsonl, write_jsonl, write_provenance
from tir.config.dpo import Pairs
from tir.config.params import read
from tir.config.rl import RewardRule
from tir.dpo.pairs import make_pairs, member
from tir.dpo.report import ALL, Tally, require_pairs, write_report
from tir.rollout.prompts import render_prompt
from tir.workflow.digests import code_digest


def main() -> None:
    parse = cli.parser(__doc__)
    parse.add_argument("--model", required=True, help="directory of the policy that was sampled from")
    parse.add_argument("--samples", required=True, nargs="+", help="trace records (JSON Lines), one file per task")
    parse.add_argument("--system-prompt", required=True, help="text file")
    parse.add_argument("--output", required=True, help="pairs to write (JSON Lines); the report is written beside it")
    arguments = parse.parse_args()
    given = read(arguments, pairs=Pairs, reward=RewardRule)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    prompt = Path(arguments.system_prompt).read_text(encoding="utf-8")
    rows, tallies = [], defaultdict[str, Tally](Tally)
    for path in arguments.samples:
        records = read_jsonl(path, ("id", "sample", "task", "segments", "gold"))
        for item, group in groupby(records, key=lambda record: record["id"]):
            trajectories = list(group)
            task, question = trajectories[0]["task"], trajectories[0]["question"]
            prompt_ids = render_prompt(tokenizer, prompt, question)
            members = [member(each, given.reward) for each in trajectories]
            pairs, reason = make_pairs(members, len(prompt_ids), given.pairs)
            tallies[task].add(members, pairs, reason, len(prompt_ids), given.pairs)
            for pair in pairs:
                facts = {"id": item, "task": task, "samples": [pair.chosen.sample, pair.rejected.sample]}
                rows.append(facts | {"rewards": [pair.chosen.reward, pair.rejected.reward]} | pair.row(prompt_ids))
    measures = write_report(tallies, arguments.output)
    found = measures[ALL]
    print(f"dpo: {found['with_pairs']} of {found['prompts']} prompts gave {found['pairs']} pairs", file=sys.stderr)
    require_pairs(found, given.pairs, ", ".join(arguments.samples))
    write_jsonl(arguments.output, rows)
    write_provenance(
        arguments.output,
        config=arguments.params,
        packages=("transformers", "sympy"),
        code=code_digest("scripts.make_pairs"),
        report=measures,
    )


if __name__ == "__main__":
    cli.run(main)
