"""Text of a small generated world, for training a tiny tokenizer."""

from random import Random

from tir.config.world import Habits, WorldSettings
from tir.rollout.protocol import render_result
from tir.world.drafts import python_draft, search_draft, values_of
from tir.world.entities import build_world, passages
from tir.world.names import WORDS
from tir.world.problems import draw
from tir.world.questions import all_questions


def sample_text() -> list[str]:
    """Passages and trajectories of a small world."""
    settings = WorldSettings(sft_clusters=60, benchmark_rows=6, rl_train_rows=12, rl_validation_rows=6)
    world, random = build_world(settings), Random(0)
    text = [row["contents"] for row in passages(world)]
    questions = [question for hops in (1, 2) for question in all_questions(world, "sft", hops, random)]
    values = values_of(questions)
    drafts = [search_draft(question, random, Habits(), values) for question in questions]
    drafts += [
        python_draft(problem, random, Habits())
        for problem in draw(random, {"story:2": 1, "solve:2": 1, "remainder:3": 1}, "sft", 300)
    ]
    text += [
        "\n".join(("system", "user", draft.question, "assistant", *draft.turns, render_result("Done")))
        for draft in drafts
    ]
    return text + [" ".join(WORDS)] * 2  # a small world does not use every word
