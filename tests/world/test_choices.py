"""The choices in the generated trajectories: how often each is made, and how often it leads to the right answer."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from random import Random
from statistics import median

import pytest
from support.configuration import merged
from support.paths import ROOT

from tir.config.rl import RewardRule
from tir.config.world import Habits, TrajectorySettings, WorldSettings
from tir.rollout.protocol import actions, first_tool_offset, split_output
from tir.scoring.reward import reward
from tir.world.drafts import guess_draft, mental_draft, python_draft, search_draft, values_of
from tir.world.entities import build_world, passage_text
from tir.world.problems import KINDS, draw
from tir.world.questions import all_questions
from tir.world.trajectories import complete, drafts

ROW = re.compile(r"\| `(\w+)` \| ([^|]+?) \| [^|]* \| ([\d.]+) \| ([\d.]+) \|")
NEVER = dict.fromkeys(("fail_first", "check", "rethink_easy", "rethink_hard", "think_long", "think_short"), 0.0)
ALWAYS_RETHINK = {"rethink_easy": 1.0, "rethink_hard": 1.0}


@pytest.fixture(scope="module")
def world():
    return build_world(WorldSettings(**merged("profiles/laptop/tiny.yaml")["world"]))


@pytest.fixture(scope="module")
def unfinished(world):
    return drafts(world, TrajectorySettings(rows=12_000))


@pytest.fixture(scope="module")
def outputs(world, unfinished):
    """(draft, its segments), with the results that the tools would give."""
    expected = {
        turn.split("<python>")[1].removesuffix("</python>"): text or "Done"
        for draft in unfinished
        for turn, text in zip(draft.turns, draft.expects, strict=False)
        if "<python>" in turn
    }

    def search(queries: list[str]) -> list[str]:
        return [passage_text(world.by_name[query]) if query in world.by_name else "nothing" for query in queries]

    finished = complete(unfinished, lambda codes: [expected[code] for code in codes], search)
    assert len(finished) == len(unfinished)
    return [(draft, split_output(output)) for draft, output in finished]


def probability(outputs, bigram: tuple[str, str], task: str | None = None) -> float:
    """P(correct | bigram) over trajectories, as in the paper's Table 3."""
    having = [draft.right for draft, segments in outputs if bigram in list(_pairs(actions(segments)))]
    return sum(having) / len(having)


def _pairs(names):
    return zip(names, names[1:], strict=False)


def test_the_documented_rates_are_the_generators(unfinished):
    """Share and success rate of each choice, from docs/world.md, within three standard errors.

    A trajectory counts for each of its choices, and for the choice "all".
    """
    sizes, right_of = Counter(draft.category for draft in unfinished), defaultdict(list)
    for draft in unfinished:
        for choice in {"all", *draft.choices}:
            right_of[draft.category, choice].append(draft.right)
    rows = ROW.findall((ROOT / "docs/world.md").read_text(encoding="utf-8"))
    assert {(category, choice) for category, choice, _, _ in rows} == set(right_of)
    for category, choice, share, right in rows:
        made = len(right_of[category, choice])
        actual_share, actual_right = made / sizes[category], sum(right_of[category, choice]) / made
        for stated, actual, number in ((share, actual_share, sizes[category]), (right, actual_right, made)):
            error = math.sqrt(max(actual * (1 - actual), 0.01) / number)
            assert abs(float(stated) - actual) < 3 * error + 0.005, (category, choice, stated, actual)


def test_right_and_wrong_trajectories_are_scored_as_stated(outputs):
    ability = {"python_only": "math", "search_only": "qa", "no_tools": "math"}
    for draft, segments in outputs[:3000]:
        task = "qa" if "guess" in draft.choices else ability[draft.category]
        scored = reward(segments, draft.gold, task, RewardRule())
        assert scored.fault is None
        assert (scored.accuracy == 1.0) == draft.right, (draft.question, draft.gold, segments)


def test_the_default_has_the_structure_of_the_paper(outputs):
    """Table 2's categories, Table 3's probabilities, and the signs of Table 4's differences of medians."""
    counts = Counter(draft.category for draft, _ in outputs)
    assert {name: round(count / len(outputs), 2) for name, count in counts.items()} == {
        "python_only": 0.67,
        "search_only": 0.24,
        "no_tools": 0.09,
    }
    assert probability(outputs, ("python", "answer")) == pytest.approx(0.81, abs=0.03)
    assert probability(outputs, ("python", "think")) == pytest.approx(0.17, abs=0.03)
    offsets = defaultdict(list)
    for draft, segments in outputs:
        offsets[draft.category, draft.right].append(first_tool_offset(segments))
    middle = {key: median(values) for key, values in offsets.items() if key[0] != "no_tools"}
    assert middle["python_only", True] < middle["python_only", False]
    assert middle["search_only", True] > middle["search_only", False]


def test_the_best_choices_are_always_right(world):
    random, habits = Random(0), Habits(**NEVER, hasty_one_hop=0.0, hasty_two_hop=0.0)
    problems = draw(random, dict.fromkeys(KINDS, 1), "sft", 300)
    questions = all_questions(world, "sft", 1, random)[:200] + all_questions(world, "sft", 2, random)[:200]
    assert all(python_draft(problem, random, habits).right for problem in problems)
    assert all(search_draft(question, random, habits, {}).right for question in questions)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["slip", "spoil", "repair", "mental_error", "recover", "guess_error"])
def test_each_rate_is_the_one_that_its_setting_states(world, name, rate):
    """The share of wrong (or repaired) answers among the trajectories that a setting concerns."""
    random = Random(0)
    problems = draw(random, {"story:2": 1, "story:3": 1}, "sft", 600)
    questions = all_questions(world, "sft", 1, random)[:600]
    values = values_of(questions)
    habits = {
        "slip": {**NEVER, "think_long": 1.0},
        "spoil": {**NEVER, **ALWAYS_RETHINK},
        "repair": {**NEVER, **ALWAYS_RETHINK, "think_long": 1.0, "slip": 1.0},
        "recover": {"hasty_one_hop": 1.0},
    }.get(name, {})
    habits = Habits(**{**habits, name: rate})
    if name in ("slip", "spoil", "repair"):
        made = [python_draft(problem, random, habits) for problem in problems]
    elif name == "mental_error":
        made = [mental_draft(problem, random, habits) for problem in problems]
    else:
        make = search_draft if name == "recover" else guess_draft
        made = [make(question, random, habits, values) for question in questions]
    wrong = sum(not draft.right for draft in made) / len(made)
    expected = 1 - rate if name in ("repair", "recover") else rate
    assert wrong == pytest.approx(expected, abs=0.06 if 0 < rate < 1 else 0.02)
