r"""What a mathematical answer denotes: its possible values, by type. docs/scoring.md states the policy.

`read` turns an answer into its possible values: numbers and expressions with a unit (`Scalar`), lists, tuples and sets
(`Items`), sets of reals from intervals and inequalities (`Region`), assignments (`Named`), equations (`Relation`) and
text (`Words`). latex2sympy2_extended reads LaTeX expressions and sympy computes. Only the worker process imports this
module: computer algebra can take any time (`tir.scoring.answers.verifier`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import sympy

from tir.scoring.answers import units
from tir.scoring.answers.math_algebra import (
    Number,
    Unreadable,
    expression,
    plain_number,
    solution_set,
)
from tir.scoring.answers.math_text import END, FUNCTIONS, GREEK, OR, TEXT, clean, enclosed, split, strip, thousands

_RELATIONS = (r"\le", r"\ge", r"\ne", r"\in", "=", "<", ">")
_SET_OPERATORS = (r"\cup", r"\cap", r"\setminus")
_WORDS = re.compile(r"^[IVX]{2,}$|^[^\W\d_]{3,}(?:[ '\-,.]+[^\W\d_]+)*[!.]?$")
_NAME = re.compile(
    rf"^(?:m?\\(?:angle|overline|vec|hat|bar)\s*)?\{{?\\?[A-Za-z]+\}}?(?:_\{{?[\w,]+\}}?)?'*(?:\^\{{?-1\}}?)?(?:\s*\(\s*-?\w+\s*\))?$"
    r"|^P\([^()]*[=<>|\\][^()]*\)$"
    rf"|^{TEXT}[^{END}]*{END}$"
    r"|^[A-Za-z](?:\s*:\s*[A-Za-z])+$"
)
_CLOCK = re.compile(r"^(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([aApP])\.?\s*[mM]\.?)?$")
_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}")
_QUANTITIES = re.compile(rf"(?:\d+(?:\.\d+)?[\s{TEXT}]*[A-Za-z]+\.?[\s{END}]+)+\d+(?:\.\d+)?[\s{TEXT}]*[A-Za-z]+{END}?")
_BASE = re.compile(
    rf"^\(?([0-9A-Z]+|[0-9a-f]+(?=\)?_\{{?16))\)?\s*_\s*\{{?(?:{TEXT})?\s*\(?(\w+)\)?\s*(?:{END})?\}}?$"
    rf"|^(\w+)\s*[({TEXT}\s]+(?:in\s)?base[-\s{END}]*(\w+)[){END}\s]*$"
)
_TURNED = re.compile(r"([\[\]])([^\[\](){},]+,[^\[\](){},]+)([\[\]])")  # ]0,1[, an open interval
_ALL_REALS = ("all real numbers", "all reals", "real numbers", "reals", "the real numbers")
_EMPTY = ("empty set", "the empty set", "emptyset")


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Scalar:
    number: Number
    unit: units.Unit = units.NONE


@dataclass(frozen=True)
class Items:
    """Items in brackets; `opening` and `closing` are "" for a bare list and `{` for a set."""

    opening: str
    items: tuple
    closing: str


@dataclass(frozen=True)
class Region:
    set: sympy.Set


@dataclass(frozen=True)
class Named:
    """Values by the name before `=` or `\\in`, in the order written."""

    values: dict[str, object]


@dataclass(frozen=True)
class Relation:
    """`difference` is the left side minus the right side; `operator` is =, <, <= or !=."""

    difference: sympy.Expr
    operator: str


@dataclass(frozen=True)
class Mark:
    """A clock time, a date, a ratio or a numeral with its base: equal only to the same."""

    kind: str
    parts: tuple


@lru_cache(maxsize=64)
def read(answer: str) -> tuple[str, tuple]:
    """The answer's text for comparison as text, and its possible values (none if it cannot be read)."""
    value = clean(answer)
    key = _key(value)
    if words := _words(value):
        return key, (words,)
    if re.search(r"[<>=]|\\(?:le|ge|ne|in)(?![A-Za-z])", value):  # between relations; elsewhere operators of logic
        value = re.sub(r"\\land(?![A-Za-z])", ",", re.sub(r"\\lor(?![A-Za-z])", OR, value))
    value = re.sub(rf"^{TEXT}?\s*(?:approximately|about)\s*{END}?\s*(?=[-\d.\\])", "", value)
    value = re.sub(rf"^{TEXT}?\s*(?:minus|negative)\s*{END}?\s*(?=[\d.\\])", "-", value)
    value = re.sub(r"(?<![\\A-Za-z])or(?![A-Za-z])", OR, value)
    value = re.sub(r"(?<![\\A-Za-z])and(?![A-Za-z])", ",", value)
    value = re.sub(r"\)\s*&\s*\(", "),(", re.sub(r"\)\s*\|\s*\(", rf"){OR}(", value))
    value = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", value)
    value = _TURNED.sub(lambda each: f"{'[('[each[1] == ']']}{each[2]}{'])'[each[3] == '[']}", value)
    value = re.sub(r",\s*(?=,|" + OR + ")", "", value).strip(" ,")
    values = []
    for text, natural in product(thousands(value), (True, False) if "log(" in value else (True,)):
        try:
            values.append(parse(text, natural))
        except Unreadable:
            continue
    return key, tuple(values)


def parse(value: str, natural: bool = True):
    """The value that a cleaned text denotes; raises `Unreadable`. With `natural`, Python's `log` is the natural one."""
    value = strip(value)
    if not value:
        raise Unreadable("empty")
    if mark := _mark(value):
        return mark
    if _QUANTITIES.fullmatch(value):  # 5 ft 6 in
        with suppress(Unreadable):
            if total := _sum([parse(each, natural) for each in re.split(rf"(?<=[A-Za-z.{END}])\s*(?=\d)", value)]):
                return total
    parts, found = split(value, (",", ";", OR))
    if len(parts) > 1:
        return _list([part for part in parts if part], OR in found, natural)
    sides, operators = split(value, _RELATIONS)
    if operators:
        return _relation(sides, operators, natural)
    operands, operators = split(value, _SET_OPERATORS)
    if operators:
        return _combined([region(parse(each, natural)) for each in operands], operators)
    if inner := enclosed(value):
        return _bracketed(*inner, natural)
    if value.startswith(r"\mathbb{R}") and "-" in value:
        return _combined([sympy.S.Reals, region(parse(value.partition("-")[2], natural))], [r"\setminus"])
    if r"\pm" in value or r"\mp" in value:
        both = (value.replace(r"\pm", "+").replace(r"\mp", "-"), value.replace(r"\pm", "-").replace(r"\mp", "+"))
        return Items("", tuple(parse(each.lstrip("+ "), natural) for each in both), "")
    return _scalar(value, natural)


def _words(value: str) -> Words | Region | Items | Scalar | None:
    """The value of an answer that is text, or None."""
    text = re.fullmatch(rf"{TEXT}([^{END}]*){END}", value)
    word = " ".join((text.group(1) if text else value).replace(TEXT, " ").replace(END, " ").split()).strip(" .!")
    choice = re.fullmatch(r"\(?([A-Za-z])\)|(?:[Oo]ption|[Cc]hoice|[Aa]nswer) \(?([A-Z])\)?", word)
    if choice:
        return Words((choice.group(1) or choice.group(2)).lower())
    if not (text or _WORDS.match(word) or re.match(r"(?:an?|one|half) [a-z]{4,}", word)):  # a dozen
        return None
    if word.lower() in _ALL_REALS:
        return Region(sympy.S.Reals)
    if word.lower() in _EMPTY:
        return Items("{", (), "}")
    number = units.number_word(word)
    if number is not None:
        return Scalar(Number(sympy.Rational(number.numerator, number.denominator)))
    if not word or set(word.split()) & {*FUNCTIONS, *GREEK, "infinity", "infty"}:
        return None
    names = re.split(r",\s*(?:and\s)?|\sand\s", word.lower())
    return Words(",".join(sorted(names)) if all(name.isalpha() for name in names) else word.lower())


def _mark(value: str) -> Mark | None:
    """A clock time, a date, a ratio with colons, or a numeral with its base."""
    text = value.replace(TEXT, " ").replace(END, " ").strip()
    if _DATE.fullmatch(text):
        return Mark("date", (text,))
    ratio = re.sub(r"(?i)\bratio(?: of)?\b", "", text).strip()
    if (clock := _CLOCK.match(text)) and (clock.group(2) or clock.group(4)):
        hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
        if hour < 24 and minute < 60 and second < 60:
            return Mark("clock", (hour, minute, second, (clock.group(4) or "").lower()))
    ratio = re.sub(r"^(\d+)\s+to\s+(\d+)$", r"\1:\2", ratio)
    parts, found = split(ratio, (":",))
    if found and not any(symbol in value for symbol in "<>="):
        try:
            return Mark("ratio", tuple(expression_of(parse(part)) for part in parts))
        except Unreadable:
            return None
    if base := _BASE.match(value):
        digits, name = filter(None, base.groups())
        if re.search(r"\d", digits):
            return Mark("base", (digits.upper(), str(units.number_word(name) or name)))
    return None


def _list(parts: list[str], alternatives: bool, natural: bool):
    values = [parse(part, natural) for part in parts]
    if all(isinstance(value, Named) and len(value.values) == 1 for value in values):
        names = [next(iter(value.values)) for value in values]
        grouped: dict[str, list] = {}
        for name, value in zip(names, values, strict=True):
            grouped.setdefault(name, []).append(value.values[name])
        return Named({name: _joined(each, alternatives) for name, each in grouped.items()})
    first, rest = values[0], values[1:]
    if (
        isinstance(first, Named)
        and len(first.values) == 1
        and not any(isinstance(each, (Named, Relation)) for each in rest)
    ):
        name, value = next(iter(first.values.items()))  # x = 1, 2
        return Named({name: Items("", (value, *rest), "")})
    if (total := _sum(values)) and not alternatives:
        return total
    if alternatives and any(isinstance(value, Region) for value in values):
        return Region(sympy.Union(*map(region, values)))
    flat = [
        item
        for value in values
        for item in (value.items if isinstance(value, Items) and not value.opening else [value])
    ]
    return Items("", tuple(flat), "")


def _sum(values: list) -> Scalar | None:
    """One quantity from its parts in ever smaller units: 5 feet 6 inches, 2 hours and 30 minutes."""
    if not all(isinstance(value, Scalar) and value.unit.above and not value.unit.words for value in values):
        return None
    parts = [value.unit for value in values]
    smaller = all(first.size > second.size for first, second in pairwise(parts))
    if not smaller or len({(part.above, part.below) for part in parts}) > 1:
        return None
    sizes = [sympy.Rational(part.size.numerator, part.size.denominator) / parts[-1].size for part in parts]
    return Scalar(Number(sum(value.number.value * size for value, size in zip(values, sizes, strict=True))), parts[-1])


def _joined(values: list, alternatives: bool):
    """Several values of one name: sets are united or intersected, other values are listed."""
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, Region) for value in values):
        common = sympy.Intersection(*(value.set for value in values))
        # `x < 1, x > 3` cannot mean both at once.
        return (
            Region(sympy.Union(*(value.set for value in values)))
            if alternatives or common is sympy.S.EmptySet
            else Region(common)
        )
    return Items("", tuple(values), "")


def _relation(sides: list[str], operators: list[str], natural: bool):
    if set(operators) <= {"=", r"\in"}:
        return _equation(sides, operators, natural)
    expressions = [
        expression_of(parse(side, natural)) if r"\pm" not in side and "," not in side else side for side in sides
    ]
    if operators == [r"\ne"]:
        excluded = parse(sides[1], natural)
        items = excluded.items if isinstance(excluded, Items) else (excluded,)
        if _NAME.match(sides[0]):
            points = sympy.FiniteSet(*map(expression_of, items))
            return Named({_name(sides[0]): Region(sympy.Complement(sympy.S.Reals, points))})
    names = sorted({str(symbol) for each in expressions for symbol in each.free_symbols})
    if len(names) == 1:
        return Named({names[0]: Region(solution_set(expressions, operators))})
    if len(operators) > 1 or not names or operators[0] not in ("<", ">", r"\le", r"\ge", r"\ne"):
        raise Unreadable("relation")
    left, right = expressions if operators[0] not in (">", r"\ge") else reversed(expressions)
    return Relation(left - right, {"<": "<", ">": "<", r"\le": "<=", r"\ge": "<=", r"\ne": "!="}[operators[0]])


def _equation(sides: list[str], operators: list[str], natural: bool):
    left, right = sides[0], sides[-1]
    if not left:
        return parse(right, natural)
    if operators == ["="] and not _NAME.match(left) and _NAME.match(right):  # 5 = x
        left, right = right, left
    inner = enclosed(left)
    names = split(inner[1], (",",))[0] if inner else []
    if len(names) > 1 and all(_NAME.match(name) for name in names):
        value = parse(right, natural)
        if isinstance(value, Items) and len(value.items) == len(names):
            return Named({_name(name): each for name, each in zip(names, value.items, strict=True)})
        return value
    if _NAME.match(left):
        value = parse(right, natural)
        if r"\in" in operators and isinstance(value, Items) and value.opening in ("(", "["):
            value = Region(region(value))
        return Named({_name(left): value})
    if r"\in" in operators:
        raise Unreadable("set membership of an expression")
    left_value, right_value = (expression_of(parse(side, natural)) for side in (left, right))
    if not (left_value.free_symbols or right_value.free_symbols) and not isinstance(left_value, sympy.MatrixBase):
        return parse(right, natural)  # 2 + 3 = 5
    if len(operators) > 1:
        raise Unreadable("chain of equations")
    return Relation(left_value - right_value, "=")


def _bracketed(opening: str, content: str, closing: str, natural: bool):
    if opening in (r"\{", "{"):
        for separator in (":", "|"):
            element, *rest = split(content, (separator,))[0]
            condition = separator.join(rest)
            if re.search(r"<|>|\\[lg]e|\\ne|\\in|=", condition):
                return _builder(element, condition, natural)
    if not content:
        return Items("{", (), "}")
    parts = split(content, (",", ";", OR))[0]
    pairs = [split(part, (":",))[0] for part in parts]
    if opening == "{" and all(len(pair) == 2 and _NAME.match(pair[0]) for pair in pairs):  # Python's {x: 1, y: 2}
        return Named({_name(name): parse(value, natural) for name, value in pairs})
    if len(parts) == 1 and opening in ("(", "{"):
        return parse(content, natural)
    if opening == r"\langle":
        opening, closing = "(", ")"
    if opening in (r"\{", "{"):
        inside = parse(content, natural)
        bare = isinstance(inside, Items) and not inside.opening
        return Items("{", inside.items if bare else (inside,), "}")
    items = tuple(parse(part, natural) for part in parts)
    value = Items(opening, items, closing)
    if (opening, closing) in (("(", "]"), ("[", ")")):
        return Region(region(value))
    rows = [item.items for item in items if isinstance(item, Items) and item.opening == "["]
    if opening == "[" and len(rows) == len(items) and len({len(row) for row in rows}) == 1:  # Python's matrix
        return Scalar(Number(sympy.Matrix([[expression_of(each) for each in row] for row in rows])))
    return value


def _builder(element: str, condition: str, natural: bool):
    """The set `{element : condition}`: a region if the element is a variable, perhaps of a stated set of numbers."""
    (name, *domain), member = split(element, (r"\in",))
    given = parse(condition, natural)
    values = list(given.values.items()) if isinstance(given, Named) else []
    if not _NAME.match(name) or [each for each, _ in values] != [_name(name)]:
        return Items("builder", (parse(element, natural), given), "")
    if not member:
        return values[0][1]
    common = region(values[0][1]).intersect(region(parse(domain[0], natural)))
    few = isinstance(common, sympy.Range) and common.is_finite_set and common.size < 1000
    return Region(sympy.FiniteSet(*common) if few else common)


def _combined(sets: Sequence[sympy.Set], operators: list[str]) -> Region:
    result = sets[0]
    for operator, operand in zip(operators, sets[1:], strict=True):
        combine = {r"\cup": sympy.Union, r"\cap": sympy.Intersection, r"\setminus": sympy.Complement}[operator]
        result = combine(result, operand)
    return Region(result)


def _scalar(value: str, natural: bool):
    amount, unit, factor = units.split_unit(value)
    if inner := enclosed(amount) if unit is not units.NONE else None:
        parsed = _bracketed(*inner, natural)
        number = parsed.number if isinstance(parsed, Scalar) else None
        if number is None:
            return parsed
    else:
        number = plain_number(amount) or expression(amount, natural)
    if isinstance(number, sympy.Set):
        return Items("{", (), "}") if number is sympy.S.EmptySet else Region(number)
    if isinstance(number, sympy.FiniteSet):
        return Items("{", tuple(Scalar(Number(each)) for each in number), "}")
    if isinstance(number, sympy.Eq):
        if number.lhs.is_Symbol:
            return Named({str(number.lhs): Scalar(Number(number.rhs))})
        return Relation(number.lhs - number.rhs, "=")
    if factor != 1:
        number = Number(
            number.value * sympy.Rational(factor.numerator, factor.denominator),
            number.step and number.step * factor,
            number.digits,
        )
    return Scalar(number, unit)


def expression_of(value) -> sympy.Expr:
    if isinstance(value, Scalar) and value.unit.words != ("%",):
        return value.number.value
    raise Unreadable("no expression")


def region(value) -> sympy.Set:
    if isinstance(value, sympy.Set):
        return value
    if isinstance(value, Named) and len(value.values) == 1:
        return region(next(iter(value.values.values())))
    if isinstance(value, Region):
        return value.set
    if isinstance(value, Items):
        expressions = [expression_of(item) for item in value.items]
        if value.opening == "{":
            return sympy.FiniteSet(*expressions)
        if len(expressions) == 2 and value.opening and not any(each.free_symbols for each in expressions):
            start, end = (each.doit() for each in expressions)
            if start.is_extended_real and end.is_extended_real:
                return sympy.Interval(start, end, value.opening == "(", value.closing == ")")
    raise Unreadable("no set")


def _name(text: str) -> str:
    return re.sub(rf"[\s{{}}\\{TEXT}{END}]", "", text)


def _key(value: str) -> str:
    """A cleaned text without insignificant blanks and braces; a blank between digits and points is significant."""
    value = re.sub(rf"[{TEXT}{END}]", "", value)
    value = re.sub(r"(?<![\d.]) +| +(?![\d.])", "", value)
    return re.sub(r"([\^_]|\\pmod)\{(\w)\}(?!\d)", r"\1\2", value)
