r"""Trajectories before their tools run: the model's text turn by turn, and the text that each result must contain.

At two points of a trajectory there is a choice that decides whether the answer is right: whether and how a tool is
called first, and whether its result is used. `Habits` states how often the examples choose well; docs/world.md
describes the choices and how often each is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tir.rollout.protocol import last_boxed
from tir.world.problems import Problem, value_of
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
        gold: the right answer; the last turn may contain another one.
        choices: names of the choices made (see docs/world.md).
    """

    question: str
    category: str
    turns: list[str]
    expects: list[str | None]
    gold: str
    choices: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the trajectory ends in the right answer."""
        return last_boxed(self.turns[-1]) == self.gold


def _think(text: str) -> str:
    return f"<think>{text}</think>"


def _python(code: str) -> str:
    return f"<python>{code}</python>"


def _search(query: str) -> str:
    return f"<search>{query}</search>"


def _answer(text: str) -> str:
    return rf"<answer>\[ \boxed{{{text}}} \]</answer>"


# --- math ------------------------------------------------------------------------------------------------------------
_WORDS = {"+": "plus", "-": "minus", "*": "times"}
# The first operation that an expression evaluates: in brackets, else a product, else at the start.
_FIRST_STEP = (r"\((\d+)([-+*])(\d+)\)", r"(?<![\d*%])(\d+)(\*)(\d+)", r"^(\d+)([-+])(\d+)")


def wrong_number(random: Random, value: int) -> int:
    """A number close to `value`, at least 0, such as a slip in mental arithmetic gives."""
    return random.choice([value + step for step in (-10, -2, -1, 1, 2, 10) if value + step >= 0])


def _off(random: Random, output: str) -> str:
    """A printed value with one of its numbers replaced by a number close to it."""
    number = random.choice(list(re.finditer(r"\d+", output)))
    return output[: number.start()] + str(wrong_number(random, int(number.group()))) + output[number.end() :]


def _misread(problem: Problem) -> str:
    """The first number of the question that is not the problem's output: what rethinking takes for the answer.

    Always the first, because a number drawn at random teaches a small model not to copy.
    """
    return next(number for number in re.findall(r"\d+", problem.question) if number != problem.output)


def _in_the_head(code: str, random: Random, slip: float) -> tuple[str, str, bool] | None:
    """The first step of an expression done in words: the words, the rest of the expression, whether it is right.

    None for expressions without a step between two integers.
    """
    for pattern in _FIRST_STEP:
        if step := re.search(pattern, code):
            left, operator, right = step.groups()
            value = value_of(left + operator + right)
            if value < 0:
                return None
            wrong = random.random() < slip
            value = wrong_number(random, value) if wrong else value
            return (
                f"{left} {_WORDS[operator]} {right} is {value}",
                code[: step.start()] + str(value) + code[step.end() :],
                not wrong,
            )
    return None


def python_draft(problem: Problem, random: Random, habits: Habits) -> Draft:
    """Solve a problem with a program, and answer with its result or think again."""
    style = random.choices(
        ("short", "long", "plan"), (habits.think_short, habits.think_long, 1 - habits.think_short - habits.think_long)
    )[0]
    opening, code, right, choices = f"{problem.plan}.", problem.code, True, [f"{style} first thought"]
    if style == "short":
        opening = "compute."
    elif style == "long":
        opening = f"we need a number. {opening}"
        if problem.family in ("story", "nested", "remainder") and (
            step := _in_the_head(problem.code, random, habits.slip)
        ):
            words, code, right = step
            opening += f" {words}."
    turns, expects, lead = [], [], _think(opening)
    if random.random() < habits.fail_first:
        failing, remark = random.choice(
            ((code, "nothing was printed. print it."), (f"prnt({code})", "a typing error. use print."))
        )
        turns.append(lead + _python(failing))
        expects.append(None)
        lead = _think(remark)
        choices.append("failing call")
    output = problem.output if right else str(value_of(code))
    turns.append(lead + _python(f"print({code})"))
    expects.append(output)
    closing, answer = "", output
    rethink = habits.rethink_easy if problem.operations == 1 else habits.rethink_hard
    if random.random() < habits.check:
        turns.append(_think("check it.") + _python(f"print({problem.code})"))
        expects.append(problem.output)
        answer = problem.output
        choices.append("check")
    elif random.random() < rethink:
        if right:
            answer = _misread(problem) if random.random() < habits.spoil else output
        elif random.random() < habits.repair:
            answer = problem.output
        closing = _think("is it right? yes." if answer == output else f"is it right? no, it is {answer}.")
        choices.append("rethink")
    else:
        choices.append("answer at once")
    turns.append(closing + _answer(problem.boxed(answer)))
    return Draft(problem.question, "python_only", turns, expects, problem.answer, tuple(choices))


def mental_draft(problem: Problem, random: Random, habits: Habits) -> Draft:
    """Answer a problem in the head."""
    right = random.random() >= habits.mental_error
    output = problem.output if right else _off(random, problem.output)
    turn = _think(f"{problem.plan}. easy.") + _answer(problem.boxed(output))
    return Draft(problem.question, "no_tools", [turn], [], problem.answer, ("mental arithmetic",))


# --- questions -------------------------------------------------------------------------------------------------------
def _guess(question: Question, values: dict[str, list[str]]) -> str:
    """A wrong value of the relation that the question asks for: always the same, as far as it is wrong."""
    return next(value for value in values[question.hops[-1].relation] if value != question.answer)


def search_draft(question: Question, random: Random, habits: Habits, values: dict[str, list[str]]) -> Draft:
    """Answer a question with one search per hop. A hasty first search names no entity, so it finds nothing useful.

    Args:
        values: values of each relation, to guess from.
    """
    relations, first = [hop.relation for hop in question.hops], question.hops[0]
    turns, expects, choices = [], [], ["careful search"]
    lead = _think(f"find the {', then the '.join(relations)}. look up {first.entity}.")
    if random.random() < (habits.hasty_one_hop if len(question.hops) == 1 else habits.hasty_two_hop):
        turns.append(_think("search.") + _search(relations[-1]))
        expects.append(None)
        if random.random() >= habits.recover:
            answer = _guess(question, values)
            turns.append(_think("not found. a guess.") + _answer(answer))
            choices = ("hasty search", "guess after it")
            return Draft(question.text, "search_only", turns, expects, question.answer, choices)
        lead = _think(f"not found. look up {first.entity}.")
        choices = ["hasty search", "search again"]
    for position, hop in enumerate(question.hops):
        turns.append(lead + _search(hop.entity))
        expects.append(hop.value)
        lead = _think(f"the {relations[position]} is {hop.value}.")
    turns.append(_answer(question.answer))
    return Draft(question.text, "search_only", turns, expects, question.answer, tuple(choices))


def guess_draft(question: Question, random: Random, habits: Habits, values: dict[str, list[str]]) -> Draft:
    """Answer a question without a search."""
    right = random.random() >= habits.guess_error
    answer = question.answer if right else _guess(question, values)
    turn = _think("i know this.") + _answer(answer)
    return Draft(question.text, "no_tools", [turn], [], question.answer, ("guess",))


def mixed_draft(question: Question, random: Random) -> Draft:
    """Search for a year and compute with it: both tools in one trajectory (the published data has none such)."""
    hop, years = question.hops[-1], random.randint(2, 99)
    total = int(hop.value) + years
    text = f"What is {years} more than the year of {hop.entity}?"
    return Draft(
        text,
        "mixed",
        [
            _think("find the year.") + _search(hop.entity),
            _think(f"add {years}.") + _python(f"print({hop.value}+{years})"),
            _answer(str(total)),
        ],
        [hop.value, str(total)],
        str(total),
        ("both tools",),
    )


def values_of(questions: list[Question]) -> dict[str, list[str]]:
    """The different values of each relation that the questions' look-ups find, sorted."""
    found: dict[str, set[str]] = {}
    for question in questions:
        for hop in question.hops:
            found.setdefault(hop.relation, set()).add(hop.value)
    return {relation: sorted(values) for relation, values in found.items()}
