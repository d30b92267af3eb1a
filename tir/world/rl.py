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


def _row(question: str, ability: str, answer: str) -> dict:
    return {
        "data_source": "grpo_mix",
        "question": question,
        "ability": ability,
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": None},
    }


def rl_rows(world: World, split: str) -> list[dict]:
    """Rows of `rl_train` or `rl_validation`, shuffled: half math, half QA; every ground truth is one string."""
    total = world.settings.rl_train_rows if split == "rl_train" else world.settings.rl_validation_rows
    random = Random(f"rl:{split}:{world.settings.seed}")
    math = draw(random, _MATH_MIX, split, total - total // 2)
    two_hop = round(_TWO_HOP_SHARE * (total // 2))
    questions = all_questions(world, split, 2, random)[:two_hop]
    questions += all_questions(world, split, 1, random)[: total // 2 - two_hop]
    rows = [_row(problem.question, "math", problem.answer) for problem in math]
    rows += [_row(question.text, "qa", question.answer) for question in questions]
    random.shuffle(rows)
    return rows
