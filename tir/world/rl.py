"""RL rows in the five columns of `mix_grpo/*.parquet`: data_source, question, ability, reward_model, extra_info."""

from __future__ import annotations

from random import Random

from tir.world.entities import World
from tir.world.problems import draw
from tir.world.questions import all_questions

_MATH_MIX = {
    "story:1": 2,
    "story:2": 3,
    "story:3": 2,
    "solve:2": 1,
    "fraction:3": 1,
    "nested:1": 1,
    "nested:2": 2,
    "remainder:1": 1,
    "remainder:2": 1,
}
_TWO_HOP_SHARE = 0.5


def rl_rows(world: World, split: str) -> list[dict]:
    """Rows of `rl_train` or `rl_validation`."""
    total = world.settings.rl_train_rows if split == "rl_train" else world.settings.rl_validation_rows
    random = Random(f"rl:{split}:{world.settings.seed}")
    return drawn_rows(world, split, total, random, _MATH_MIX, _TWO_HOP_SHARE, "grpo_mix")


def drawn_rows(
    world: World, split: str, rows: int, random: Random, problems: dict[str, float], two_hop: float, source: str
) -> list[dict]:
    """Rows of a split, shuffled: half math, half QA; every ground truth is one string.

    Args:
        problems: share of each family of problems in the math rows.
        two_hop: share of questions with two hops in the QA rows.
        source: what the rows have as `data_source`.
    """
    math = draw(random, problems, split, rows - rows // 2)
    hops = round(two_hop * (rows // 2))
    questions = all_questions(world, split, 2, random)[:hops]
    questions += all_questions(world, split, 1, random)[: rows // 2 - hops]
    found = [(problem.question, "math", problem.answer) for problem in math]
    found += [(question.text, "qa", question.answer) for question in questions]
    random.shuffle(found)
    return [
        {
            "data_source": source,
            "question": question,
            "ability": ability,
            "reward_model": {"ground_truth": answer, "style": "rule"},
            "extra_info": {"index": None},
        }
        for question, ability, answer in found
    ]
