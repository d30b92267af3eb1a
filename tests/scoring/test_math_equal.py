"""Mathematical equality: pairs of every kind that docs/scoring.md names, and the behaviour on hostile answers.

`math_equal.tsv` holds the pairs: kind, whether they are equal, prediction, gold.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import pytest
from support.paths import ROOT

from tir.scoring.answers.math import math_equal
from tir.scoring.answers.math_algebra import Unreadable, expression
from tir.scoring.answers.math_text import clean

ROWS = [
    line.replace("\\u200b", "\u200b").split("\t")
    for line in (Path(__file__).parent / "math_equal.tsv").read_text(encoding="utf-8").splitlines()[1:]
]
KINDS = defaultdict(list)
for kind, *row in ROWS:
    KINDS[kind].append(row)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_each_kind(kind):
    wrong = [
        f"{prediction}  |  {gold}  should be {'equal' if expected == 'yes' else 'unequal'}"
        for expected, prediction, gold in KINDS[kind]
        if math_equal(prediction, gold) != (expected == "yes")
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_equality_is_symmetric_unless_a_gold_interval_could_be_a_list():
    """Only a gold `[0,1]` is not a list or set of two numbers; a predicted `[0, 1]` may be Python's list."""
    one_way = {(r"\{0,1\}", "[0,1]")}
    for _, expected, prediction, gold in ROWS:
        if (prediction, gold) not in one_way:
            assert math_equal(gold, prediction) == (expected == "yes"), (gold, prediction)


def test_every_kind_of_the_table_is_explained_in_the_documentation():
    page = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8").lower()
    assert [kind for kind in KINDS if kind.lower() not in page] == []


@pytest.mark.parametrize(
    "kind", ["sets, intervals and inequalities", "assignments by name", "units, currencies, percent"]
)
def test_a_box_dollar_signs_and_a_full_stop_change_nothing(kind):
    for expected, prediction, gold in KINDS[kind]:
        assert math_equal(rf"\boxed{{{prediction}}}", f"{gold}.") == (expected == "yes"), (prediction, gold)


@pytest.mark.parametrize(
    "code", ["__import__('os').system('true')", "().__class__", "open('x')", "lambda: 1", "exec('1')"]
)
def test_an_answer_in_python_is_never_executed(code):
    assert not math_equal(code, "1")
    with pytest.raises(Unreadable):
        expression(code, True)


TOKENS = [
    *"1 a . , { } ( ) [ ] ^ _ = < > | : ; ! $ - / x y i U % # ' * ** ... e9 in or and million km ° ½".split(),
    *r"\{ \} \frac \text{ \sqrt \le \in \cup \$ \% \pm \boxed{ \ \log \binom \overline \mathbb{R} \infty".split(),
    *(" ", "\n", "\ud800", '"'),
]
HOSTILE = [
    "1 ab" + "." * 900 + "!",
    "1" + " " * 900 + "or",
    "\\{" * 240 + "1" + "\\}" * 240,
    "(" * 900,
    "[" * 400 + "1" + "]" * 400,
    "1," * 450,
    "\\boxed{" * 120,
    "\\frac{" * 150,
    "\\frac" * 180,
    "^" * 900,
    "x_" * 450 + "=",
    "1" * 990,
    "1e" + "9" * 900,
    "\\text{a}" * 110,
    "9/0",
    "\\frac{0}{0}",
    "√" * 900,
    "sqrt(" * 180,
    "-" * 900 + "1",
    "*" * 300 + "1" + "*" * 300,
    "5 " + "m/" * 400,
    "0." + "1" * 900 + "...",
    "a=" * 300,
    "x<" * 300 + "1",
]


def test_hostile_answers_are_read_without_error_in_bounded_time():
    """Reading takes milliseconds; the bound is generous, because only growth with the length would be a fault."""
    draw = random.Random(1)
    slowest = 0.0
    for text in HOSTILE + [" ".join(draw.choices(TOKENS, k=draw.randint(1, 40))) for _ in range(3000)]:
        begin = time.process_time()
        clean(text)
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 0.5
    for text in HOSTILE + ["".join(draw.choices(TOKENS, k=draw.randint(1, 12))) for _ in range(400)]:
        math_equal(text, "(1, 2)")
        math_equal("x=1", text)
