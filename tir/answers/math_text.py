r"""One spelling for the many ways to write the same mathematical answer, without computer algebra.

`read(answer)` takes apart what surrounds the value (dollar signs, boxes, units, `x =`), and spells the value in one way:
`\dfrac12`, `\frac 12` and `\frac{1}{2}` become one key; `1,000`, `1{,}000` and `10\,000` are numbers, but `100, 198` is a
list. `number` turns a value into an exact rational; `items` splits tuples, sets and lists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tir.protocol import last_boxed

LONGEST = 1000  # characters; longer answers are compared as strings only


@dataclass(frozen=True)
class Expression:
    """An answer taken apart.

    Attributes:
        latex: the value, fit for a LaTeX parser.
        key: the same without white space that means nothing, for comparison.
        whole: the key of the answer as it was written, its unit and left-hand side included.
        words: the value as lower-case words if it is text ("Evelyn", "(B)"), else "".
        unit: its unit's common name, "%" and "degree" included, or "".
        equation: the value with its left-hand side where one was removed ("y=2x+3"), else "".
    """

    latex: str
    key: str
    whole: str
    words: str = ""
    unit: str = ""
    equation: str = ""


_SYMBOLS = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "θ": r"\theta ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "±": r"\pm ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "²": "^2",
    "³": "^3",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "，": ",",
    "（": "(",
    "）": ")",
    "％": r"\%",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "$": "",
    "£": r"\$",
    "€": r"\$",
}
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", ""),
        (r",\s*\\!\s*|\{,\}", ","),  # a separator of thousands, before its negative space becomes a blank
        (r"(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"(?<![\d.,/])(\d+) +(?!\d{3} */)(\d+) */ *(\d+)", r"\1\\frac{\2}{\3}"),  # 1 1/2, but 10 000/3
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:geq|leq)(?![A-Za-z])", lambda match: match.group()[:-1]),
        (
            r"(?:√|(?<![\\A-Za-z])sqrt)\s*\(([^()]*)\)|√\s*([\w.]+)",
            lambda match: rf"\sqrt{{{match.group(1) or match.group(2) or ''}}}",
        ),
        (r"(?<![\\A-Za-z])(?:infinity|infty|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\*\*", "^"),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\w)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", r"\\degree "),
    )
]
_TEXT = r"\\(?:text|mbox|hbox|mathrm|textrm|textit|textbf|mathbf|textnormal|operatorname)\s*\{([^{}]*)\}"
_WHOLE_TEXT = re.compile(rf"^{_TEXT}$")
_ANY_TEXT = re.compile(_TEXT)
_TEXT_UNIT = re.compile(rf"^(.*[^\s,+\-*/=(^_]\s*){_TEXT}\s*(?:\^\s*\{{?(\d)\}}?)?$")
_PLAIN_UNIT = re.compile(
    r"^((?:[-+\d.,/ {}^]|\\frac|\\sqrt|\\pi)*[\d.}]\s*)"  # a value without letters
    r"((?:[A-Za-z]{2,}|(?<= )[mgsh](?![A-Za-z]))(?:[ .]{1,2}[A-Za-z]+)*\.?)\s*(?:\^\s*\{?(\d)\}?)?$"
)
_WORDS = re.compile(r"^[A-Za-z]{3,}(?:[ '\-]+[A-Za-z]+)*$")
_CHOICE = re.compile(r"^\(?([A-Za-z])\)?$")
_LEFT_HAND_SIDE = re.compile(
    r"^(?:\\?[A-Za-z][A-Za-z]{0,9}(?:_\{?\w+\}?)?(?:\s*\([A-Za-z]\))?)\s*(?:=|\\in(?![A-Za-z]))\s*([^=]+)$"
)
_CONNECTIVE = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*(?:or|and)\s*\}|(?<![\\A-Za-z])(?:or|and)(?![A-Za-z]))\s*")
_THOUSANDS = re.compile(r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$")
_MEANS_NOTHING = re.compile(r"(?<!\d) | (?!\d)| (?=\d{3}(?!\d))")  # a blank, but for that of "3 4"
_NOT_UNITS = {"pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "mod", "choose"}
_UNITS = {
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "millimeter": "mm millimeter millimeters",
    "centimeter": "cm cms centimeter centimeters centimetre centimetres",
    "meter": "m meter meters metre metres",
    "kilometer": "km kilometer kilometers kilometre kilometres",
    "gram": "g gram grams",
    "kilogram": "kg kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "second": "s sec second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "cent": "cent cents",
    "dollar": "dollar dollars usd",
    "degree": "degree degrees deg",
    "mile per hour": "mph",
    "radian": "rad radian radians",
    "%": "percent",
    "ordinal": "st nd rd th",
}
_UNIT_NAMES = {spelling: name for name, spellings in _UNITS.items() for spelling in spellings.split()}


def read(answer: object) -> Expression:
    """Take an answer apart; see `Expression`."""
    value = _bare(str(answer))
    text = _WHOLE_TEXT.match(value)
    if text:
        value = text.group(1).strip()
    choice = _CHOICE.match(value)
    if (text and not re.search(r"\d", value)) or _WORDS.match(value) or (choice and value[0] == "("):
        words = choice.group(1) if choice else " ".join(value.split())
        return Expression(value, _key(value), _key(value), words=words.lower().strip(" ."))
    whole = _key(_ANY_TEXT.sub(r" \1 ", value))
    value, unit = _split_unit(_CONNECTIVE.sub(", ", value))
    value = _ANY_TEXT.sub(r" \1 ", value).strip()
    side = _LEFT_HAND_SIDE.match(value)
    equation = _key(value) if side else ""
    if side:
        value, inner_unit = _split_unit(side.group(1).strip())
        unit = unit or inner_unit
    return Expression(value, _key(value), whole, unit=unit, equation=equation)


def number(value: str) -> Fraction | None:
    r"""Exact value of a plain number: integer, decimal, fraction, mixed number (`1\frac{4}{5}`) or power of ten.

    Args:
        value: an expression's `latex`, whose blanks tell the list `100, 198` from the number `100,198`.
    """
    key = value.replace(",", "") if _THOUSANDS.match(value) else _key(value)
    for pattern, value in _NUMBERS:
        match = pattern.match(key)
        if match:
            try:
                return value(match)
            except ZeroDivisionError:
                return None
    return None


def items(key: str) -> tuple[str, list[str], str] | None:
    r"""Opening bracket, items and closing bracket of a tuple, interval, set or bare list; None if it is none of these.

    Brackets are "" for a bare list. `a\pm b` counts as the list of its two values.
    """
    opening, closing, inner = "", "", key
    for left, right in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        body = key[len(left) : len(key) - len(right)]
        if len(key) > len(left) + len(right) and key.startswith(left) and key.endswith(right) and _closed(body):
            opening, closing, inner = left, right, body
            break
    parts = _split_commas(inner)
    if parts is None or (opening not in ("", "\\{") and len(parts) < 2):
        return None
    if opening in ("", "\\{"):
        parts = [value for part in parts for value in _both_signs(part)]
    return (opening, parts, closing) if opening or len(parts) > 1 else None


def _bare(text: str) -> str:
    boxed = last_boxed(text)
    value = " ".join((text if boxed is None else boxed).split())  # runs of white space would make patterns slow
    value = re.sub(r"(?<!\\)\\[()\[\]]", "", value.replace("\\$", "\u0000"))
    for symbol, replacement in _SYMBOLS.items():
        value = value.replace(symbol, replacement)
    value = value.replace("\u0000", "\\$")
    for pattern, replacement in _REWRITES:
        value = pattern.sub(replacement, value)
    return re.sub(r"(?<=.)\.$", "", " ".join(value.split())).strip()


def _split_unit(value: str) -> tuple[str, str]:
    for mark, unit in (("\\%", "%"), ("%", "%"), ("\\degree", "degree")):
        if value.endswith(mark):
            return value[: -len(mark)].strip(), unit
    if "\\$" in value:
        return value.replace("\\$", "").strip(), "dollar"
    match = _TEXT_UNIT.match(value) or _PLAIN_UNIT.match(value)
    if match:
        name = match.group(2).strip(" .").lower()
        apart = match.group(1).endswith(" ") or value.startswith("\\", match.end(1))  # "4ab" is a product
        if name in _UNIT_NAMES or (apart and name not in _NOT_UNITS and not re.search(r"[\d,]", name)):
            return match.group(1).strip(), _UNIT_NAMES.get(name, name) + (match.group(3) or "")
    return value, ""


def units_agree(left: str, right: str) -> bool:
    """False only for two different *known* units; a missing unit, or "eggs" against "dollars", is not judged."""
    known = {*_UNITS}
    both_known = left.rstrip("23") in known and right.rstrip("23") in known
    return left == right or not both_known


def _key(latex: str) -> str:
    tight = _MEANS_NOTHING.sub("", " ".join(latex.split()))
    tight = re.sub(r"^\((\w+)\)(?=_)", r"\1", tight)  # (201)_7 is 201_7
    tight = re.sub(r"([\^_])\{(\w)\}", r"\1\2", tight)
    return re.sub(r"\^\{?\\degree\}?", "", tight)


def _closed(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split_commas(text: str) -> list[str] | None:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return parts if all(parts) else None


def _both_signs(part: str) -> list[str]:
    if part.count("\\pm") != 1:
        return [part]
    return [part.replace("\\pm", "+").removeprefix("+"), part.replace("\\pm", "-")]


def _power(match: re.Match) -> Fraction:
    exponent = int(match.group(2))
    return Fraction(match.group(1)) * Fraction(10) ** exponent


def _mixed(match: re.Match) -> Fraction:
    sign, whole, top, bottom = match.groups()
    return (-1 if sign == "-" else 1) * (int(whole) + Fraction(int(top), int(bottom)))


_DECIMAL = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_NUMBERS = (
    (re.compile(rf"^({_DECIMAL})$"), lambda match: Fraction(match.group(1).rstrip("."))),
    (re.compile(rf"^({_DECIMAL})/({_DECIMAL})$"), lambda match: Fraction(match.group(1)) / Fraction(match.group(2))),
    (
        re.compile(rf"^([+-]?)\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}$"),
        lambda match: (-1 if match.group(1) == "-" else 1) * Fraction(match.group(2)) / Fraction(match.group(3)),
    ),
    (re.compile(r"^([+-]?)(\d+)\\frac\{(\d+)\}\{(\d+)\}$"), _mixed),
    (re.compile(rf"^({_DECIMAL})(?:\\times|\\cdot|\*)10\^\{{?([+-]?\d{{1,3}})\}}?$"), _power),
    (re.compile(rf"^({_DECIMAL})[eE]([+-]?\d{{1,3}})$"), _power),
)
