"""The report of the pairs: how many prompts gave some, why others did not, and how chosen and rejected ones differ.

DPO is known to lengthen responses where chosen ones are longer than rejected ones; the report says whether they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tir.common.errors import DataError
from tir.common.records import write_json, write_text
from tir.config.dpo import Pairs
from tir.dpo.pairs import REASONS, Member, Pair

ALL = "all"


@dataclass
class Tally:
    """Counts of one task's prompts and trajectories, and its pairs."""

    counts: Counter[str] = field(default_factory=Counter)
    pairs: list[Pair] = field(default_factory=list)

    def add(self, members: Sequence[Member], pairs: Sequence[Pair], reason: str, prompt_tokens: int, rules: Pairs):
        """Count a prompt with its trajectories."""
        self.pairs += pairs
        self.counts["prompts"] += 1
        self.counts[reason or "with_pairs"] += 1
        self.counts["trajectories"] += len(members)
        for each in members:
            good, bad = each.reward >= rules.chosen_from, each.reward < rules.rejected_below
            self.counts["good" if good else "bad" if bad else "between"] += 1
            self.counts["bad_format"] += bool(bad and each.fault)
            self.counts["over_cutoff"] += prompt_tokens + len(each.ids) > rules.cutoff_tokens

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts, self.pairs + other.pairs)

    def measures(self) -> dict[str, float]:
        """The values of the report; means are over pairs, and absent without any."""
        names = [
            "prompts",
            "with_pairs",
            *REASONS,
            "trajectories",
            "good",
            "bad",
            "bad_format",
            "between",
            "over_cutoff",
        ]
        found: dict[str, float] = {name: self.counts[name] for name in names} | {"pairs": len(self.pairs)}
        if not self.pairs:
            return found
        for name, of in _MEANS.items():
            chosen, rejected = (fmean(of(member) for member in side) for side in zip(*map(_sides, self.pairs)))
            found |= {f"{name}_chosen": round(chosen, 2), f"{name}_rejected": round(rejected, 2)}
        longer = [pair.chosen.model_tokens > pair.rejected.model_tokens for pair in self.pairs]
        return found | {
            "chosen_longer": round(fmean(longer), 3),
            "shared_tokens": round(fmean(pair.shared for pair in self.pairs), 2),
        }


def _sides(pair: Pair) -> tuple[Member, Member]:
    return pair.chosen, pair.rejected


_MEANS = {
    "model_tokens": lambda each: each.model_tokens,
    "response_tokens": lambda each: len(each.ids),
    "tool_calls": lambda each: each.calls,
}
LABELS = {
    "prompts": "prompts",
    "with_pairs": "prompts with a pair",
    **{name: f"without: {reason}" for name, reason in REASONS.items()},
    "trajectories": "trajectories sampled",
    "good": "good enough to be chosen",
    "bad": "bad enough to be rejected",
    "bad_format": "of these, with a wrong format",
    "between": "in between, in no pair",
    "over_cutoff": "longer than the cutoff, in no pair",
    "pairs": "pairs",
    "model_tokens_chosen": "tokens of the model, mean of the chosen",
    "model_tokens_rejected": "tokens of the model, mean of the rejected",
    "response_tokens_chosen": "tokens with tool results, mean of the chosen",
    "response_tokens_rejected": "tokens with tool results, mean of the rejected",
    "tool_calls_chosen": "tool calls, mean of the chosen",
    "tool_calls_rejected": "tool calls, mean of the rejected",
    "chosen_longer": "share of pairs whose chosen one has more tokens of the model",
    "shared_tokens": "tokens with which both begin, mean",
}


def write_report(tallies: dict[str, Tally], output: str | Path) -> dict[str, dict[str, float]]:
    """Write `<output>.report.json`, `.csv` and `.md` with one column per task and one for all; return the measures.

    Args:
        tallies: by task.
        output: path of the pairs.
    """
    columns = tallies | {ALL: sum(tallies.values(), Tally())}
    measures = {name: tally.measures() for name, tally in columns.items()}
    rows = [
        [label, *(str(measures[name].get(key, "")) for name in columns)]
        for key, label in LABELS.items()
        if any(key in each for each in measures.values())
    ]
    stem = str(output).removesuffix(".jsonl")
    write_json(f"{stem}.report.json", measures)
    quoted = [[f'"{label}"', *cells] for label, *cells in rows]
    write_text(f"{stem}.csv", "".join(",".join(row) + "\n" for row in [["", *columns], *quoted]))
    lines = [["pairs", *columns], ["---", *("---:" for _ in columns)], *rows]
    write_text(f"{stem}.md", "".join(f"| {' | '.join(row)} |\n" for row in lines))
    return measures


def require_pairs(found: dict[str, Any], rules: Pairs, where: str) -> None:
    """Raise `DataError` if there is no pair; it says how many prompts have none for which reason, and what to change.

    Args:
        found: measures of all tasks.
        rules: the section `dpo.pairs`.
        where: the trajectories.
    """
    if found["pairs"]:
        return
    reason = max(REASONS, key=lambda name: found[name])
    more = f"dpo: {{pairs: {{samples: {2 * found['trajectories'] // found['prompts']}}}}}"
    remedies = {
        "no_chosen": f"{more}  # or lower thresholds",
        "no_rejected": f"{more}  # or higher thresholds",
        "too_long": f"dpo: {{pairs: {{cutoff_tokens: {2 * rules.cutoff_tokens}}}}}",
        "same_text": f"{more}  # or a higher rl.temperature",
    }
    good = f"{found['good']} have a reward of at least {rules.chosen_from:g}"
    bad = f"{found['bad']} one below {rules.rejected_below:g} ({found['bad_format']} of these in a wrong format)"
    reasons = "; ".join(f"{found[name]} prompts: {text}" for name, text in REASONS.items() if found[name])
    raise DataError(
        "no pairs, so there is nothing to train on",
        where="config.yaml:dpo.pairs",
        why=f"of {found['trajectories']} trajectories, {good}, {bad}; {reasons} ({where})",
        remedy=remedies[reason],
    )
