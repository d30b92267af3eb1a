r"""Make preference pairs of sampled trajectories: a chosen and a rejected one of the same prompt.

The RL reward labels each trajectory. Chosen and rejected ones are paired in the order in which they were sampled, the
first with the first: lengths and tool calls do not matter. No trajectory is in two pairs.

The loss of DPO compares the log-probabilities that policy and reference give to the two responses,

    loss = -log sigmoid(beta * ((log pi(c) - log ref(c)) - (log pi(r) - log ref(r))))

summed over the tokens that the model generated. Tokens of tool results have no loss. Neither have the tokens with which
both responses begin: their log-probabilities are the same in both and cancel, so leaving them out changes no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tir.config.dpo import Pairs
from tir.config.rl import RewardRule
from tir.rollout.protocol import Segment, model_texts
from tir.scoring.reward import reward

IGNORE = -100  # label of a token without loss
# Why a prompt gives no pair, in the order in which the reasons are tried.
REASONS = {
    "no_chosen": "no trajectory is good enough",
    "no_rejected": "no trajectory is bad enough",
    "too_long": "all good or all bad ones are longer than the cutoff",
    "same_text": "their model text is the same, or one is the beginning of the other",
}


@dataclass(frozen=True)
class Member:
    """A labelled trajectory.

    Attributes:
        sample: its number among those of the prompt.
        reward: its reward.
        fault: how it violates the format, or None.
        calls: executed tool calls.
        texts: its model segments.
        ids, by_model: token ids of the response, and whether the model generated each.
    """

    sample: int
    reward: float
    fault: str | None
    calls: int
    texts: tuple[str, ...]
    ids: tuple[int, ...]
    by_model: tuple[bool, ...]

    @property
    def model_tokens(self) -> int:
        """Number of tokens that the model generated."""
        return sum(self.by_model)


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected trajectory of one prompt; `shared`: tokens with which both responses begin."""

    chosen: Member
    rejected: Member
    shared: int

    def row(self, prompt_ids: Sequence[int]) -> dict[str, list[int]]:
        """Columns of LLaMA-Factory's pairwise data: ids, attention mask and labels of both members."""
        columns = {}
        for name, member in (("chosen", self.chosen), ("rejected", self.rejected)):
            learned = [mine and position >= self.shared for position, mine in enumerate(member.by_model)]
            labels = [token if each else IGNORE for token, each in zip(member.ids, learned, strict=True)]
            ids = [*prompt_ids, *member.ids]
            columns[f"{name}_input_ids"] = ids
            columns[f"{name}_attention_mask"] = [1] * len(ids)
            columns[f"{name}_labels"] = [IGNORE] * len(prompt_ids) + labels
        return columns


def member(record: dict[str, Any], rule: RewardRule) -> Member:
    """Label a trace record (see `tir.rollout.traces.record`) with the reward of RL."""
    segments = [Segment(each["by"], each["text"], each["token_ids"]) for each in record["segments"]]
    executed = {"python": record["n_python"], "search": record["n_search"]}
    score = reward(segments, record["gold"], record["task"], rule, executed)
    return Member(
        sample=record["sample"],
        reward=score.score,
        fault=score.fault,
        calls=sum(executed.values()),
        texts=tuple(model_texts(segments)),
        ids=tuple(token for each in segments for token in each.token_ids),
        by_model=tuple(each.by == "model" for each in segments for _ in each.token_ids),
    )


def make_pairs(members: Iterable[Member], prompt_tokens: int, rules: Pairs) -> tuple[list[Pair], str]:
    """Pairs of one prompt's trajectories, or none and the reason, a key of `REASONS`.

    Args:
        members: the trajectories.
        prompt_tokens: length of the prompt.
        rules: the section `dpo.pairs`.
    """
    ordered = sorted(members, key=lambda each: each.sample)
    chosen = [each for each in ordered if each.reward >= rules.chosen_from]
    rejected = [each for each in ordered if each.reward < rules.rejected_below]
    if not chosen or not rejected:
        return [], "no_rejected" if chosen else "no_chosen"
    short = [
        [each for each in side if prompt_tokens + len(each.ids) <= rules.cutoff_tokens] for side in (chosen, rejected)
    ]
    if not all(short):
        return [], "too_long"
    pairs: list[Pair] = []
    for good in short[0]:
        free = [bad for bad in short[1] if all(bad is not pair.rejected for pair in pairs)]
        if found := next(filter(None, (_pair(good, bad) for bad in free)), None):
            pairs.append(found)
    return pairs[: rules.per_prompt], "" if pairs else "same_text"


def _pair(chosen: Member, rejected: Member) -> Pair | None:
    """A pair; None if the model wrote the same in both, or if one is the beginning of the other."""
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen.ids, rejected.ids)))
    differ = chosen.texts != rejected.texts and any(chosen.by_model[shared:]) and any(rejected.by_model[shared:])
    return Pair(chosen, rejected, shared) if differ else None
