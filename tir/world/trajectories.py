"""SFT rows in Alpaca format, with tool results from executed tools."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tir.common.errors import DataError
from tir.rollout.categories import TOOL_CATEGORIES
from tir.rollout.protocol import render_result, tool_call
from tir.world.drafts import Draft, guess_draft, mental_draft, mixed_draft, python_draft, search_draft, values_of
from tir.world.entities import World
from tir.world.problems import KINDS, draw
from tir.world.questions import Question, all_questions

if TYPE_CHECKING:
    from tir.config.world import TrajectorySettings


def _counts(settings: TrajectorySettings) -> dict[str, int]:
    counts = {name: round(settings.rows * settings.mix.get(name, 0.0)) for name in TOOL_CATEGORIES}
    counts["python_only"] += settings.rows - sum(counts.values())
    return counts


def drafts(world: World, settings: TrajectorySettings) -> list[Draft]:
    """Trajectories of the `sft` split without tool results, shuffled."""
    random, counts, habits = Random(f"sft:{world.settings.seed}"), _counts(settings), settings.habits
    mix = {kind: settings.problems[kind] for kind in KINDS if kind in settings.problems}  # in one order, however stated
    guesses = round(habits.guess_share * counts["no_tools"])
    mental = counts["no_tools"] - guesses
    problems = draw(random, mix, "sft", counts["python_only"] + mental)
    result = [mental_draft(problem, random, habits) for problem in problems[:mental]]
    result += [python_draft(problem, random, habits) for problem in problems[mental:]]
    questions = _questions(world, settings.two_hop, counts["search_only"] + guesses, random)
    values = values_of(all_questions(world, "sft", 1, random))
    result += [guess_draft(question, random, habits, values) for question in questions[:guesses]]
    result += [search_draft(question, random, habits, values) for question in questions[guesses:]]
    if counts["mixed"]:
        years = [question for question in all_questions(world, "sft", 1, random) if question.hops[0].relation == "year"]
        result += [mixed_draft(random.choice(years), random) for _ in range(counts["mixed"])]
    random.shuffle(result)
    return result


def _questions(world: World, two_hop: float, count: int, random: Random) -> list[Question]:
    """`count` questions, shuffled. If the split has fewer, facts are asked again, with newly drawn templates."""
    chosen: list[Question] = []
    for hops, share in ((2, two_hop), (1, 1 - two_hop)):
        number, questions = round(share * count), []
        while len(questions) < number:
            questions += all_questions(world, "sft", hops, random)
        chosen += questions[:number]
    random.shuffle(chosen)
    return chosen


def complete(
    unfinished: list[Draft], run_python: Callable[[list[str]], list[str]], search: Callable[[list[str]], list[str]]
) -> list[tuple[Draft, str]]:
    """Execute every distinct call once and insert the results into the trajectories.

    Args:
        unfinished: trajectories without results.
        run_python: programs -> tool texts, in order.
        search: queries -> tool texts, in order.

    Returns:
        (draft, output) pairs, without the drafts of which a result lacks the expected text.
    """
    calls = [[tool_call(turn) for turn in draft.turns[:-1]] for draft in unfinished]
    results: dict[tuple[str, str], str] = {}
    for tool, execute in (("python", run_python), ("search", search)):
        bodies = sorted({call.body for row in calls for call in row if call.tool == tool})
        results.update(zip(((tool, body) for body in bodies), execute(bodies), strict=True))
    finished = []
    for draft, row in zip(unfinished, calls, strict=True):
        texts = [results[call.tool, call.body] for call in row]
        if all(expected is None or expected in text for expected, text in zip(draft.expects, texts, strict=True)):
            with_results = [turn + render_result(text) for turn, text in zip(draft.turns, texts, strict=False)]
            finished.append((draft, "".join([*with_results, draft.turns[-1]])))
    return finished


def alpaca_rows(finished: list[tuple[Draft, str]], instruction: str) -> list[dict]:
    """Rows `{"instruction", "input", "output"}` as in `Tool-Star-SFT-54K`; the instruction is the system prompt."""
    return [{"instruction": instruction, "input": draft.question, "output": output} for draft, output in finished]


def sft_rows(
    world: World,
    settings: TrajectorySettings,
    run_python: Callable[[list[str]], list[str]],
    search: Callable[[list[str]], list[str]],
) -> list[dict]:
    """The SFT rows; raises `DataError` if the tool results of more than a fifth of the trajectories are not usable."""
    unfinished = drafts(world, settings)
    finished = complete(unfinished, run_python, search)
    if len(finished) < 0.8 * len(unfinished):
        raise DataError(
            "too many trajectories fail when their tools run",
            where="world.trajectories",
            why=f"in {len(unfinished) - len(finished)} of {len(unfinished)} a result lacks the expected text",
            remedy="raise tools.search.top_k, or check the index",
        )
    return alpaca_rows(finished, settings.instruction)
