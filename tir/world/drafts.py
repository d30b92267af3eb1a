r"""Trajectories before their tools run: the model's text turn by turn, and the text that each result must contain.

The trajectories vary in the features that the shaping term measures: the length of the thought before the first tool
call, and whether an answer or a thought follows a call. In some the first call fails and the second corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tir.world.problems import Problem
from tir.world.questions import Question

if TYPE_CHECKING:
    from tir.config.world import Habits


@dataclass
class Draft:
    """A trajectory without tool results.

    Attributes:
        question: the user's question.
        category: python_only, search_only, mixed or no_tools (the paper's Table 2).
        turns: model texts; every turn except the last ends with a tool call.
        expects: for each call, text that its result must contain (later turns rely on it), or None.
    """

    question: str
    category: str
    turns: list[str]
    expects: list[str | None]


def _think(text: str) -> str:
    return f"<think>{text}</think>"


def _python(code: str) -> str:
    return f"<python>{code}</python>"


def _search(query: str) -> str:
    return f"<search>{query}</search>"


def _answer(text: str) -> str:
    return rf"<answer>\[ \boxed{{{text}}} \]</answer>"


def _length(random: Random, habits: Habits) -> str:
    return random.choices(
        ("short", "long", "plain"), (habits.think_short, habits.think_long, 1 - habits.think_short - habits.think_long)
    )[0]


def python_draft(problem: Problem, random: Random, habits: Habits) -> Draft:
    """Solve a problem with one or two programs."""
    length = _length(random, habits)
    opening = {"short": "compute.", "plain": f"{problem.plan}.", "long": f"we need a number. {problem.plan}. compute."}[
        length
    ]
    program, turns, expects = f"print({problem.code})", [], []
    lead = _think(opening)
    if random.random() < habits.fail_first:
        wrong, remark = random.choice(
            ((problem.code, "nothing was printed. print it."), (f"prnt({problem.code})", "a typing error. use print."))
        )
        turns.append(lead + _python(wrong))
        expects.append(None)
        lead = _think(remark)
    turns.append(lead + _python(program))
    expects.append(problem.output)
    closing = ""
    if problem.family in ("story", "nested", "remainder") and random.random() < habits.verify:
        turns.append(_think("check it.") + _python(f"print({problem.output}=={problem.code})"))
        expects.append("True")
    elif random.random() < habits.think_after_tool:
        closing = _think(f"so {problem.answer}.")
    turns.append(closing + _answer(problem.answer))
    return Draft(problem.question, "python_only", turns, expects)


_RELATION_WORDS = {"seat": "place", "birthplace": "birthplace", "occupation": "job"}


def search_draft(question: Question, random: Random, habits: Habits) -> Draft:
    """Answer a question with one search per hop."""
    relations = [_RELATION_WORDS.get(hop.relation, hop.relation) for hop in question.hops]
    length, first = _length(random, habits), question.hops[0]
    plain = f"find the {', then the '.join(relations)}."
    opening = {"short": "search.", "plain": plain, "long": f"we need a fact. {plain} look up {first.entity}."}[length]
    turns, expects, lead = [], [], _think(opening)
    if random.random() < habits.fail_first:
        turns.append(lead + _search(relations[0]))
        expects.append(None)
        lead = _think(f"not found. look up {first.entity}.")
    for position, hop in enumerate(question.hops):
        turns.append(lead + _search(hop.query))
        expects.append(hop.value)
        lead = _think(f"the {relations[position]} is {hop.value}." if random.random() < 0.5 else "next.")
    closing = _think(f"so {question.answer}.") if random.random() < habits.think_after_tool else ""
    turns.append(closing + _answer(question.answer))
    return Draft(question.text, "search_only", turns, expects)


def mixed_draft(question: Question, random: Random) -> Draft:
    """Search for a year and compute with it: both tools in one trajectory (the published data has none such)."""
    hop, years = question.hops[-1], random.randint(2, 99)
    total = int(hop.value) + years
    text = f"What is {years} more than the year of {hop.query}?"
    return Draft(
        text,
        "mixed",
        [
            _think("find the year.") + _search(hop.query),
            _think(f"add {years}.") + _python(f"print({hop.value}+{years})"),
            _answer(str(total)),
        ],
        [hop.value, str(total)],
    )


def no_tool_draft(random: Random) -> Draft:
    """Answer a sum of two one-digit numbers without a tool."""
    a, b = random.randint(1, 9), random.randint(1, 9)
    return Draft(f"What is {a} + {b}?", "no_tools", [_think(f"{a} and {b} make {a + b}.") + _answer(str(a + b))], [])
