"""Supervised rows in the Alpaca fields, whose tool results come from really running the tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tir.errors import ConfigError, DataError
from tir.protocol import render_result, tool_call
from tir.world.drafts import Draft, Habits, mixed_draft, no_tool_draft, python_draft, search_draft
from tir.world.entities import World
from tir.world.problems import draw
from tir.world.questions import Question, all_questions

CATEGORIES = ("python_only", "search_only", "no_tools", "mixed")
INSTRUCTION = "Use tools."


@dataclass(frozen=True)
class TrajectorySettings:
    """What the supervised set holds.

    Attributes:
        rows: trajectories.
        mix: share of each category (the paper's Table 2: python 0.67, search 0.24, no tools 0.09, mixed 0).
        two_hop: share of two-hop questions among search trajectories.
        problems: weight of each `family:operations` among Python trajectories.
        instruction: the system prompt, stored in every row.
        habits: how the trajectories are written.
    """

    rows: int = 4000
    mix: dict[str, float] = field(default_factory=lambda: {"python_only": 0.5, "search_only": 0.44, "no_tools": 0.06})
    two_hop: float = 0.35
    problems: dict[str, float] = field(default_factory=lambda: {
        "story:1": 3, "story:2": 4, "story:3": 3, "solve:2": 2, "fraction:3": 2, "expand:3": 1, "nested:1": 2,
        "nested:2": 3, "nested:3": 1, "remainder:1": 1, "remainder:2": 1})
    instruction: str = INSTRUCTION
    habits: Habits = Habits()


def _counts(settings: TrajectorySettings) -> dict[str, int]:
    unknown = sorted(set(settings.mix) - set(CATEGORIES))
    if unknown or abs(sum(settings.mix.values()) - 1) > 1e-6 or min(settings.mix.values()) < 0:
        raise ConfigError("shares must add up to 1", where="world.trajectories.mix", why=str(settings.mix),
                          remedy=f"use only {', '.join(CATEGORIES)}")
    counts = {name: round(settings.rows * settings.mix.get(name, 0.0)) for name in CATEGORIES}
    counts["python_only"] += settings.rows - sum(counts.values())
    return counts


def drafts(world: World, settings: TrajectorySettings) -> list[Draft]:
    """Trajectories of the `sft` split with open results, shuffled."""
    random, counts = Random(f"sft:{world.settings.seed}"), _counts(settings)
    problems = draw(random, settings.problems, "sft", counts["python_only"])
    made = [python_draft(problem, random, settings.habits) for problem in problems]
    two = round(settings.two_hop * counts["search_only"])
    for hops, count in ((2, two), (1, counts["search_only"] - two)):
        made += [search_draft(question, random, settings.habits) for question in _questions(world, hops, count, random)]
    if counts["mixed"]:
        years = [question for question in all_questions(world, "sft", 1, random) if question.hops[0].relation == "year"]
        made += [mixed_draft(random.choice(years), random) for _ in range(counts["mixed"])]
    made += [no_tool_draft(random) for _ in range(counts["no_tools"])]
    random.shuffle(made)
    return made


def _questions(world: World, hops: int, count: int, random: Random) -> list[Question]:
    """`count` questions; once every fact was asked they come again, reworded where there is another wording."""
    questions: list[Question] = []
    while len(questions) < count:
        questions += all_questions(world, "sft", hops, random)
    return questions[:count]


def complete(made: list[Draft], run_python: Callable[[list[str]], list[str]], search: Callable[[list[str]], list[str]]
             ) -> list[tuple[Draft, str]]:
    """Run every distinct call once and write the results into the trajectories.

    Args:
        made: drafts.
        run_python: programs -> tool texts, in order.
        search: queries -> tool texts, in order.

    Returns:
        (draft, output) pairs; a draft whose result lacks what its next turn relies on is left out.
    """
    calls = [[tool_call(turn) for turn in draft.turns[:-1]] for draft in made]
    results: dict[tuple[str, str], str] = {}
    for tool, execute in (("python", run_python), ("search", search)):
        bodies = sorted({call.body for row in calls for call in row if call.tool == tool})
        results.update(zip(((tool, body) for body in bodies), execute(bodies), strict=True))
    finished = []
    for draft, row in zip(made, calls, strict=True):
        texts = [results[call.tool, call.body] for call in row]
        if all(expected is None or expected in text for expected, text in zip(draft.expects, texts, strict=True)):
            pieces = [turn + render_result(text) for turn, text in zip(draft.turns, texts, strict=False)]
            finished.append((draft, "".join([*pieces, draft.turns[-1]])))
    return finished


def alpaca_rows(finished: list[tuple[Draft, str]], instruction: str) -> list[dict]:
    """Rows `{"instruction", "input", "output"}` as in `Tool-Star-SFT-54K`; the instruction is the system prompt."""
    return [{"instruction": instruction, "input": draft.question, "output": output} for draft, output in finished]


def sft_rows(world: World, settings: TrajectorySettings, run_python: Callable[[list[str]], list[str]],
             search: Callable[[list[str]], list[str]]) -> list[dict]:
    """The supervised set; raises `DataError` if more than a fifth of the trajectories had to be left out."""
    made = drafts(world, settings)
    finished = complete(made, run_python, search)
    if len(finished) < 0.8 * len(made):
        raise DataError("too many trajectories fail when their tools run", where="world.trajectories",
                        why=f"{len(made) - len(finished)} of {len(made)}", remedy="raise tools.search.top_k, or check the index")
    return alpaca_rows(finished, settings.instruction)
