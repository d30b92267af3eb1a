r"""Word problems, arithmetic and algebra in several difficulties.

A problem is a question, the Python expression that solves it, and its answer. Families, from easy to hard:

- `story`: a few sentences with one, two or three operations (like GSM8K);
- `solve`, `fraction`, `expand`: algebra whose answer is a LaTeX string (like MATH500);
- `nested`: nested phrases, "the product of 12 and the sum of 5 and 7", with answers from 0 to 999 (like AIME);
- `remainder`: a nested phrase modulo a number.

No digit occurs twice in a problem's numbers, so a small model can copy a number from its context digit by digit.
Splits are disjoint: the digest of a problem's expression determines its split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from tir.common.errors import ConfigError
from tir.world.names import FIRST_NAMES

THINGS = "books cards coins cups eggs pens toys".split()
_BUCKETS = (("benchmark", 12), ("rl_validation", 4), ("rl_train", 14), ("sft", 70))  # percent of all expressions


@dataclass(frozen=True)
class Problem:
    r"""A math problem.

    Attributes:
        question: the question's text.
        code: a Python expression whose printed value is `output`; sympy, x, y and z are preloaded.
        output: the output of `print(code)`.
        answer: the boxed answer, in LaTeX.
        plan: the solution in words, for the thoughts of a trajectory.
        family: one of `FAMILIES`.
        operations: number of operations (1-3), the difficulty.
    """

    question: str
    code: str
    output: str
    answer: str
    plan: str
    family: str
    operations: int


def split_of(code: str) -> str:
    """The split of an expression: `sft`, `rl_train`, `rl_validation` or `benchmark`."""
    bucket = int.from_bytes(hashlib.sha256(code.encode()).digest()[:4], "big") % 100
    for split, width in _BUCKETS:
        if bucket < width:
            return split
        bucket -= width
    raise AssertionError("unreachable: the widths of _BUCKETS add up to 100")


def latex(output: str) -> str:
    r"""A printed value as LaTeX: `7/3` -> `\frac{7}{3}`, `x**2 - 2*x` -> `x^2 - 2x`."""
    sign, magnitude = ("-", output[1:]) if output.startswith("-") else ("", output)
    numerator, slash, denominator = magnitude.partition("/")
    if slash and numerator.isdigit() and denominator.isdigit():
        return rf"{sign}\frac{{{numerator}}}{{{denominator}}}"
    return output.replace("**", "^").replace("*", "")


# --- stories -------------------------------------------------------------------------------------------------------
# Each: number of operations, sentences, expression, plan. Letters a-d are numbers, n a first name, o a thing.
_STORIES = (
    (1, "{n} has {a} {o} and gets {b} more. How many {o} does {n} have?", "{a}+{b}", "add {b} to {a}"),
    (1, "{n} has {a} {o} and gives away {b}. How many {o} are left?", "{a}-{b}", "take {b} from {a}"),
    (1, "There are {a} boxes of {b} {o}. How many {o} are there?", "{a}*{b}", "multiply {a} by {b}"),
    (
        2,
        "There are {a} boxes of {b} {o} and {c} more {o}. How many {o} are there?",
        "{a}*{b}+{c}",
        "multiply {a} by {b}, add {c}",
    ),
    (
        2,
        "{n} has {a} boxes of {b} {o} and gives away {c}. How many {o} are left?",
        "{a}*{b}-{c}",
        "multiply {a} by {b}, take away {c}",
    ),
    (
        2,
        "{n} has {a} red and {b} blue {o} in each of {c} bags. How many {o} are there?",
        "({a}+{b})*{c}",
        "add {a} and {b}, multiply by {c}",
    ),
    (
        2,
        "{n} has {a} {o}, gets {b} more and gives away {c}. How many {o} are left?",
        "{a}+{b}-{c}",
        "add {a} and {b}, take away {c}",
    ),
    (
        3,
        "{n} has {a} boxes of {b} {o} and {c} bags of {d} {o}. How many {o} are there?",
        "{a}*{b}+{c}*{d}",
        "multiply {a} by {b}, {c} by {d}, add",
    ),
    (
        3,
        "{n} has {a} boxes of {b} {o}, gets {c} and gives away {d}. How many {o} are left?",
        "{a}*{b}+{c}-{d}",
        "multiply {a} by {b}, add {c}, take away {d}",
    ),
    (
        3,
        "There are {a} red and {b} blue {o} in each of {c} bags. {n} gives away {d}. How many {o} are left?",
        "({a}+{b})*{c}-{d}",
        "add {a} and {b}, multiply by {c}, take away {d}",
    ),
)


def _numbers(random: Random, widths: Sequence[int]) -> list[int]:
    """Numbers with the given counts of digits, each at least 2; no digit occurs twice in all of them together."""
    while True:
        digits = iter(random.sample("0123456789", sum(widths)))
        numbers = ["".join(next(digits) for _ in range(width)) for width in widths]
        if all(text[0] != "0" and int(text) >= 2 for text in numbers):
            return [int(text) for text in numbers]


def _value(code: str) -> int:
    """The value of an integer expression generated by this module."""
    return eval(code, {"__builtins__": {}})


def _story(random: Random, operations: int) -> Problem:
    _, text, expression, plan = random.choice([story for story in _STORIES if story[0] == operations])
    words = {"n": random.choice(FIRST_NAMES), "o": random.choice(THINGS)}
    value = -1
    while value < 0:
        widths = (2 if operations == 1 else random.choice((1, 1, 2)), *[1] * operations)
        numbers = dict(zip("abcd", _numbers(random, widths), strict=False))
        code = expression.format(**numbers)
        value = _value(code)
    return Problem(
        text.format(**numbers, **words), code, str(value), str(value), plan.format(**numbers), "story", operations
    )


# --- algebra -------------------------------------------------------------------------------------------------------
def _solve(random: Random, operations: int) -> Problem:
    a, b, c = _numbers(random, (1, 1, random.choice((1, 2))))
    sign = random.choice("+-")
    value = Fraction(c - b if sign == "+" else c + b, a)
    return Problem(
        f"Solve ${a}x {sign} {b} = {c}$ for $x$.",
        f"solve({a}*x{sign}{b}-{c},x)[0]",
        str(value),
        latex(str(value)),
        f"solve {a}x{sign}{b}={c}",
        "solve",
        2,
    )


def _fraction(random: Random, operations: int) -> Problem:
    a, b, c, d = _numbers(random, (1, 1, 1, 1))
    sign = random.choice("+-")
    value = Fraction(a, b) + (1 if sign == "+" else -1) * Fraction(c, d)
    return Problem(
        rf"Find $\frac{{{a}}}{{{b}}} {sign} \frac{{{c}}}{{{d}}}$.",
        f'sympy.S("{a}/{b}{sign}{c}/{d}")',
        str(value),
        latex(str(value)),
        f"compute {a}/{b}{sign}{c}/{d}",
        "fraction",
        3,
    )


def _signed(value: int, symbol: str) -> str:
    if value == 0:
        return ""
    coefficient = "" if abs(value) == 1 and symbol else str(abs(value))
    return f" {'+' if value > 0 else '-'} {coefficient}{'*' if coefficient and symbol else ''}{symbol}"


def _expand(random: Random, operations: int) -> Problem:
    a, b = _numbers(random, (1, 1))
    first, second = random.choice("+-"), random.choice("+-")
    p, q = (a if first == "+" else -a), (b if second == "+" else -b)
    output = "x**2" + _signed(p + q, "x") + _signed(p * q, "")
    return Problem(
        f"Expand $(x {first} {a})(x {second} {b})$.",
        f"sympy.expand((x{first}{a})*(x{second}{b}))",
        output,
        latex(output),
        f"expand (x{first}{a})(x{second}{b})",
        "expand",
        3,
    )


# --- nested phrases ------------------------------------------------------------------------------------------------
_PHRASES = {
    "+": "the sum of {left} and {right}",
    "-": "the difference of {left} and {right}",
    "*": "the product of {left} and {right}",
}
_VERBS = {"+": "add", "-": "subtract", "*": "multiply"}


def _phrase(random: Random, operations: int, operands: Iterator[int]) -> tuple[str, str, list[str]]:
    """A random expression with `operations` operations: its phrase, its code, and its verbs in order of evaluation."""
    if operations == 0:
        number = str(next(operands))
        return number, number, []
    operator = random.choice("+-*")
    left_operations = random.randint(0, operations - 1)
    left, left_code, left_verbs = _phrase(random, left_operations, operands)
    right, right_code, right_verbs = _phrase(random, operations - 1 - left_operations, operands)
    if left_operations:
        left_code = f"({left_code})"
    if operations - 1 - left_operations:
        right_code = f"({right_code})"
    return (
        _PHRASES[operator].format(left=left, right=right),
        f"{left_code}{operator}{right_code}",
        [*left_verbs, *right_verbs, _VERBS[operator]],
    )


def _widths(random: Random, operations: int) -> list[int]:
    return [random.choice((1, 1, 2)) for _ in range(operations + 1)]


def _nested(random: Random, operations: int) -> Problem:
    value = -1
    while not 0 <= value < 1000:
        text, code, verbs = _phrase(random, operations, iter(_numbers(random, _widths(random, operations))))
        value = _value(code)
    return Problem(f"Find {text}.", code, str(value), str(value), ", ".join(verbs), "nested", operations)


def _remainder(random: Random, operations: int) -> Problem:
    *operands, modulus = _numbers(random, [*_widths(random, operations), 1])
    text, code, verbs = _phrase(random, operations, iter(operands))
    code = f"({code})%{modulus}"
    value = str(_value(code))
    return Problem(
        f"Find {text} modulo ${modulus}$.",
        code,
        value,
        value,
        ", ".join([*verbs, f"modulo {modulus}"]),
        "remainder",
        operations,
    )


FAMILIES: dict[str, Callable[[Random, int], Problem]] = {
    "story": _story,
    "solve": _solve,
    "fraction": _fraction,
    "expand": _expand,
    "nested": _nested,
    "remainder": _remainder,
}
_GRADES = {
    "story": (1, 2, 3),
    "solve": (2,),
    "fraction": (3,),
    "expand": (3,),
    "nested": (1, 2, 3),
    "remainder": (1, 2, 3),
}
KINDS = tuple(f"{family}:{grade}" for family, grades in _GRADES.items() for grade in grades)
_MAX_REPEATS = 20_000  # draws without a new problem; the smallest split has 4 percent of all expressions


def draw(random: Random, mix: dict[str, float], split: str, count: int) -> list[Problem]:
    """`count` problems of a split with distinct questions.

    Args:
        mix: weight of each of `KINDS`, `family:operations`, for example `{"story:1": 2, "remainder:3": 1}`.

    Raises `ConfigError` if the kinds have fewer problems.
    """
    kinds, weights = list(mix), list(mix.values())
    problems: dict[str, Problem] = {}
    repeats = 0
    while len(problems) < count:
        family, _, operations = random.choices(kinds, weights)[0].partition(":")
        problem = FAMILIES[family](random, int(operations))
        repeats += 1
        if split_of(problem.code) == split and problem.question not in problems:
            problems[problem.question] = problem
            repeats = 0
        if repeats > _MAX_REPEATS:
            raise ConfigError(
                "too few different problems",
                where="world",
                why=f"split {split} needs {count}; {', '.join(kinds)} have {len(problems)} there",
                remedy="configure fewer rows, or add a kind: story:3",
            )
    return list(problems.values())
