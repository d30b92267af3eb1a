r"""Units, currencies and number words at the end of a value: `60 km/h`, `5 \text{ cm}^2`, `\$5 million`, `10\%`.

Lengths, times, masses and the other physical units have their sizes from sympy. Two known units are compared by
dimension and size (`1 m` equals `100 cm`, `2 m` does not equal `2 s`); a value without a unit agrees with every unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

from tir.scoring.answers.math_text import END, TEXT

_SYMPY = (  # names in sympy; it has no others that an answer would mean
    "m meter meters cm centimeter centimeters mm millimeter millimeters km kilometer kilometers dm decimeter "
    "decimeters nm nanometer nanometers inch inches foot feet ft yard yards yd mile miles mi s second seconds ms "
    "millisecond "
    "milliseconds minute minutes h hour hours day days g gram grams kg kilogram kilograms mg milligram "
    "milligrams pound pounds tonne l liter liters mL ml milliliter milliliters quart quarts hectare ha newton newtons "
    "N joule joules J watt watts W volt volts V pascal pascals Pa kPa hertz hz Hz ampere amperes A ohm ohms coulomb C "
    "kelvin K mole moles mol"
).split()
_ALIASES = {
    "in": "inch",
    "yds": "yard",
    "sec": "second",
    "secs": "second",
    "min": "minute",
    "mins": "minute",
    "hr": "hour",
    "hrs": "hour",
    "yr": "year",
    "yrs": "year",
    "lb": "pound",
    "lbs": "pound",
    "cms": "cm",
    "kms": "km",
    "metre": "meter",
    "metres": "meter",
    "centimetre": "cm",
    "centimetres": "cm",
    "kilometre": "km",
    "kilometres": "km",
    "millimetre": "mm",
    "millimetres": "mm",
    "litre": "liter",
    "litres": "liter",
    "kgs": "kg",
    "gm": "gram",
    "gms": "gram",
    "L": "liter",
    "millilitre": "ml",
    "millilitres": "ml",
    "kph": "km/h",
    "kmh": "km/h",
    "mph": "mile/h",
    "tons": "tonne",
    "tonnes": "tonne",
    "sq.": "square",
}
_OTHERS: dict[str, tuple[str, Fraction]] = {  # (dimension, size)
    **dict.fromkeys(("dollar", "dollars", "usd", "US dollars", "$"), ("USD", Fraction(1))),
    **dict.fromkeys(("cent", "cents", "¢"), ("USD", Fraction(1, 100))),
    **dict.fromkeys(("euro", "euros", "eur", "€"), ("EUR", Fraction(1))),
    **dict.fromkeys(("gbp", "£"), ("GBP", Fraction(1))),
    **dict.fromkeys(("yen", "jpy", "¥"), ("JPY", Fraction(1))),
    **dict.fromkeys(("yuan", "cny", "rmb"), ("CNY", Fraction(1))),
    **dict.fromkeys(("rupee", "rupees", "rs", "inr", "₹"), ("INR", Fraction(1))),
    **dict.fromkeys(("week", "weeks"), ("time", Fraction(7 * 86400))),
    **dict.fromkeys(("month", "months"), ("month", Fraction(1))),
    **dict.fromkeys(("year", "years"), ("month", Fraction(12))),
    **dict.fromkeys(("ounce", "ounces", "oz"), ("mass", Fraction(45359237, 1600000))),
    **dict.fromkeys(("gallon", "gallons", "gal"), ("gallon", Fraction(1))),
    **dict.fromkeys(("acre", "acres"), ("acre", Fraction(1))),
    **dict.fromkeys(("celsius", "°c"), ("celsius", Fraction(1))),
    **dict.fromkeys(("fahrenheit", "°f"), ("fahrenheit", Fraction(1))),
    **dict.fromkeys(("degree", "degrees", "deg"), ("degree", Fraction(1))),
    **dict.fromkeys(("radian", "radians", "rad"), ("radian", Fraction(1))),
    "wh": ("energy", Fraction(1)),
    **dict.fromkeys(("st", "nd", "rd", "th"), ("ordinal", Fraction(1))),
}
_MONEY = ("USD", "EUR", "GBP", "JPY", "CNY", "INR")
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "thousands": 10**3,
    "millions": 10**6,
    "billions": 10**9,
    "trillions": 10**12,
}
_NEUTRAL = {"unit", "of", "approximately", "about", "total", "each"}
_OF_ANOTHER = set(  # words that no unit has: the value before them is not the answer
    "not no never is are was were does do did at below minus plus squared cubed factorial if when unless except than "
    "wrong false incorrect impossible halves thirds fourths fifths sixths eighths tenths hundredths thousandths "
    "millionths over divided doubled halved tripled modulo mod inverse root point raised conjugate extraneous "
    "rejected".split()
) | {""}  # an exponent without a unit: 7 squared
_CURRENCY = re.compile(r"^([-+]?)\s*((?:US\s?)?\\\$|[£€¥₹]|Rs\.?|USD|EUR|GBP)\s*(?=[-+.\d(\\])")
_LETTERS = {"k": "thousand", "m": "million", "b": "billion"}
_ANGLE = re.compile(r"(-?)(\d+)\s*\^\\circ\s*(\d+(?:\.\d+)?)'(?:\s*(\d+(?:\.\d+)?)(?:''|\"))?")
_PREFIXED = ("m", "g", "s", "L", "J", "W", "V", "N", "A", "Pa", "Wh")
_SPAN = rf"{TEXT}[^{END}]*{END}"
_TEXT_FRACTION = re.compile(
    rf"\\frac\s*\{{\s*({_SPAN}|[A-Za-z]+)\s*\}}\s*\{{\s*((?:{_SPAN}|[A-Za-z]+)(?:\^\{{?\d\}}?)?)\s*\}}$"
)
_TEXT_UNIT = re.compile(rf"^(.*[^\s+\-*/=(^_,])\s*((?:/\s*)?{_SPAN}(?:{_SPAN}|\^\s*\{{?-?\d\}}?|/|\s|\\cdot)*)$")
_PLAIN_UNIT = re.compile(
    r"^((?:[-+\d.,/ {}()^]|\\frac|\\sqrt|\\pi|\\times|\\cdot|\\overline|\\bar|\\dot)*[\d.})]|[-+]?\\pi)(\s*)"
    r"((?:/\s*)?[A-Za-zµ](?:[A-Za-z. /\-]|\^\s*\{?-?\d\}?|\\cdot)*)$"
)
_NOT_UNITS = {
    "pi",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "mod",
    "choose",
    "e",
    "i",
    "x",
}


@dataclass(frozen=True)
class Unit:
    """A unit: its size in base units, its dimensions above and below the fraction bar, and words that are no unit."""

    size: Fraction = Fraction(1)
    above: tuple[tuple[str, Fraction], ...] = ()
    below: tuple[tuple[str, Fraction], ...] = ()
    below_size: Fraction = Fraction(1)
    words: tuple[str, ...] = field(default=())

    @property
    def empty(self) -> bool:
        return not (self.above or self.below or self.words)


NONE, PERCENT = Unit(), Unit(words=("%",))
_GENERIC = {(f"unit^{power}",): (("length", Fraction(power)),) for power in (2, 3)}  # square and cubic units


def split_unit(value: str) -> tuple[str, Unit, Fraction]:
    """The value without its unit, the unit, and the factor of number words (`million`).

    Words such as those of `7 squared` or `7 is wrong` stay with the value, which then cannot be read.
    """
    value = _TEXT_FRACTION.sub(_unit_fraction, value)
    percent = re.fullmatch(rf"(.*[^\s\\{TEXT}])\s*(?:\\?%|{TEXT}?\s*per\s?cent(?:age)?\s*{END}?|pct)", value)
    if percent and not re.search(r"%|[A-Za-z]$", percent.group(1)):
        return percent.group(1), PERCENT, Fraction(1)
    if angle := _ANGLE.fullmatch(value):
        sign, degrees, minutes, seconds = angle.groups(default="0")
        return f"{sign}({degrees} + {minutes}/60 + {seconds}/3600)", _unit("degree")[0], Fraction(1)
    names, whole = [], value
    if currency := _CURRENCY.match(value):
        names.append(re.sub(r"^US\s?(?=\$)|\\", "", currency.group(2).replace("\\", "")).strip(" ."))
        value = currency.group(1) + value[currency.end() :]
        value = re.sub(r"(?<=\d)\s?([kKmMbB])$", lambda letter: f" {_LETTERS[letter[1].lower()]}", value)  # $20k
    elif sign := re.fullmatch(r"(.*\d)\s*(?:\\(?=\$))?([$£€¥₹¢])", value):
        value, name = sign.groups()
        names.append(name)
    if degree := re.fullmatch(rf"(.*\S)\s*\^\\circ\s*(?:{TEXT}?\s*([CF])\s*{END}?)?", value):
        if not re.search(r"\\circ|\\(?:sin|cos|tan)", degree.group(1)):
            return degree.group(1), _unit(f"°{degree.group(2)}" if degree.group(2) else "degree")[0], Fraction(1)
    value = re.sub(rf"(?<=\d)\^\{{?(?:{TEXT})?(st|nd|rd|th)(?:{END})?\}}?$", r" \1", value)
    match, text = _TEXT_UNIT.match(value), ""
    if match:
        value, text = match.groups()
    elif (match := _PLAIN_UNIT.match(value)) and _is_unit(match.group(3), separated=bool(match.group(2))):
        value, text = match.group(1), match.group(3)
    unit, factor = _unit(" ".join([*names, text]))
    variable = any(len(word) == 1 and word != "a" for word in unit.words) or (
        unit.words and not re.search(r"\d", value)
    )
    if variable or not _OF_ANOTHER.isdisjoint(unit.words):  # 7 times x, n even, 7 is wrong
        return whole, NONE, Fraction(1)
    return value.strip(), unit, factor


def _unit_fraction(match: re.Match) -> str:
    r"""A fraction of units at the end, as text: `60 \frac{km}{h}`; that of variables as it is: `\frac{a}{b}`."""
    above, below = (re.sub(f"[{TEXT}{END}]", "", each) for each in match.groups())
    names = (above.strip(), below.partition("^")[0].strip())
    of_units = TEXT in match[0] or (match.start() > 0 and all(_known(name) is not None for name in names))
    return f"{TEXT}{above}/{below}{END}" if of_units else match[0]


def factor_between(left: Unit, right: Unit) -> Fraction | None:
    """The number by which a value in `left` is multiplied for a value in `right`; None if the units do not agree.

    A missing unit agrees with every unit, and `60 km` with `60 km/h` (a rate without its denominator).
    """
    if left.empty or right.empty:
        return Fraction(1)
    for generic, other in ((left, right), (right, left)):
        if generic.words in _GENERIC and (other.above or other.below):
            return Fraction(1) if (other.above, other.below) == (_GENERIC[generic.words], ()) else None
    if left.words != right.words and left.words and right.words:
        return None
    if not (left.above or left.below) or not (right.above or right.below):
        return Fraction(1) if left.words == right.words else None
    if left.above and right.above and left.above != right.above:
        return None
    if left.below and right.below and left.below != right.below:
        return None
    if not (left.above and right.above) and not (left.below and right.below):
        return None  # 5 per hour is not 5 hours
    above = left.size / right.size if left.above and right.above else Fraction(1)
    below = left.below_size / right.below_size if left.below and right.below else Fraction(1)
    return above / below


def number_word(text: str) -> Fraction | None:
    """The value of an English number word (`twenty-five`, `two hundred and five`, `two and a half`), or None."""
    sign = -1 if re.match(r"(?:minus|negative) ", text.lower()) else 1
    words = re.sub(r"^(?:minus|negative) |-", " ", text.lower()).split()
    if words[:2] == ["half", "a"] and words[2:] and words[2] in _KINDS:  # half a dozen
        value = _whole(words[1:])
        return value and sign * value / 2
    if not words or words[-1] not in _PARTS:
        value = _whole(words)
        return value if value is None else sign * value
    part, words = _PARTS[words[-1]], words[:-1]
    if not words:
        return None if part not in (2, 4) else sign * Fraction(1, part)  # "third" alone is an ordinal
    mixed = "and" in words
    cut = len(words) - words[::-1].index("and") if mixed else 0
    whole, above = _whole(words[: cut - 1]) if mixed else Fraction(0), _whole(words[cut:], of_a_part=True)
    if whole is None or above is None or (mixed and above >= part):
        return None
    return sign * (whole + above / part)


def _whole(words: list[str], of_a_part: bool = False) -> Fraction | None:
    """The value of words as English joins them: `two five` and `twenty twenty` are no number."""
    if of_a_part and words == ["a"]:
        return Fraction(1)
    if not words or not _GRAMMAR.fullmatch("".join(_KINDS.get(word, "?") for word in words)):
        return None
    total, group, last = Fraction(0), Fraction(0), None
    for word in words:
        if word in _NUMBER_WORDS:
            group += _NUMBER_WORDS[word]
        elif word in _SCALES and _SCALES[word] <= 100:
            group = (group or 1) * _SCALES[word]
        elif word in _SCALES:
            if last and _SCALES[word] >= last:
                return None
            total, group, last = total + (group or 1) * _SCALES[word], Fraction(0), _SCALES[word]
    return total + group


_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_NUMBER_WORDS = (
    {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, 2)} | {"a": 1}
)
_KINDS = {"zero": "z", "a": "a", "and": "&", "hundred": "H", "dozen": "D"}
_KINDS |= dict.fromkeys(_SMALL[1:10], "u") | dict.fromkeys(_SMALL[10:], "t") | dict.fromkeys(_TENS, "T")
_KINDS |= dict.fromkeys(("thousand", "million", "billion", "trillion"), "K")
_BELOW_100 = "(?:Tu?|t|u)"
_BELOW_1000 = f"(?:(?:{_BELOW_100}|a)?H(?:&?{_BELOW_100})?|{_BELOW_100})"
_GRAMMAR = re.compile(
    f"z|(?:{_BELOW_1000}|a)?K(?:&?{_BELOW_1000}K)*(?:&?{_BELOW_1000})?|{_BELOW_1000}|(?:{_BELOW_100}|a)?D"
)
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_PARTS |= {"fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}


def _is_unit(text: str, separated: bool) -> bool:
    """Whether letters after a number are a unit: `5cm` and `5 eggs` are, `5t`, `4ab` and `5 n` are not."""
    words = re.findall(r"[A-Za-zµ]+", text)
    if (words[0].lower() in _NOT_UNITS and words != ["sec"]) or len(text) > 60:
        return False
    known = [_known(word) is not None or word.lower() in _SCALES for word in words]
    if text[0] == "/":
        return all(known) or len(words[0]) > 1
    if not separated:
        return known[0] and len(words[0]) > 1 and all(known)
    return known[0] if len(words[0]) == 1 else True


def _unit(text: str) -> tuple[Unit, Fraction]:
    text = re.sub(rf"[{TEXT}{END}]", " ", text)
    text = (
        re.sub(r"[{}()]|\\cdot|\.(?=\s|$)|\.(?=[a-z])", " ", text).replace("°C", "celsius").replace("°F", "fahrenheit")
    )
    text = re.sub(r"\s*\^\s*", "^", re.sub(r"(?<![A-Za-z])per(?![A-Za-z])", "/", text))
    text = re.sub(r"(?<![A-Za-z])(?:square[\s-]+|sq[\s-]*(?!uare))([A-Za-z]+)", r" \1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<![A-Za-z])cu(?:bic)?[\s-]+([A-Za-z]+)", r" \1^3", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+squared(?![A-Za-z])", "^2", re.sub(r"\s+cubed(?![A-Za-z])", "^3", text))
    text = re.sub(r"light[\s-]years?", "lightyear", text, flags=re.IGNORECASE)
    text = re.sub(r"degrees?\s+(celsius|fahrenheit)", r"\1", text, flags=re.IGNORECASE)
    factor, words, sizes, sides = Fraction(1), [], [Fraction(1), Fraction(1)], [{}, {}]
    for number, part in enumerate(text.split("/")):
        for token in re.sub(r"(?<!\^)-", " ", part).split():
            name, _, power = token.partition("^")
            power = int(power) if power.lstrip("-").isdigit() else 1
            side = min(number, 1) if power > 0 else 1 - min(number, 1)
            power = abs(power)
            known = _known(name)
            if name.lower() in _SCALES:
                factor *= _SCALES[name.lower()]
            elif known is None:
                word = name.lower() if len(name) > 3 or name.istitle() else name  # MB is not Mb
                word = word if word in _OF_ANOTHER else word.removesuffix("s")
                if word not in _NEUTRAL or power != 1:
                    words.append(word if power == 1 or word not in _NEUTRAL else f"{word}^{power}")
            else:
                size, below, dimensions = known
                sizes[side] *= size**power
                sizes[1 - side] *= below**power
                for dimension, exponent in dimensions.items():
                    target = side if exponent > 0 else 1 - side
                    sides[target][dimension] = sides[target].get(dimension, 0) + abs(exponent) * power
    for each in sides:  # $5 USD
        each.update({key: 1 for key in each if key in _MONEY})
    above, below = (tuple(sorted((key, value) for key, value in each.items() if key)) for each in sides)
    return Unit(sizes[0], above, below, sizes[1], tuple(words)), factor


@cache
def _known(name: str) -> tuple[Fraction, Fraction, dict[str, Fraction]] | None:
    """Size above and below the fraction bar, and dimensions of a unit; None for another word."""
    alias = _ALIASES.get(name) or _ALIASES.get(name.lower())
    if alias and "/" in alias:
        above, below = (_known(each) for each in alias.split("/"))
        return above[0], below[0], above[2] | {key: -value for key, value in below[2].items()}
    for spelling in (alias or name, (alias or name).lower()):
        if spelling in _OTHERS:
            return _OTHERS[spelling][1], Fraction(1), {_OTHERS[spelling][0]: Fraction(1)}
        if spelling in _SYMPY and (len(spelling) > 1 or spelling == name or alias):
            return _from_sympy(spelling)
    if name[1:] in _PREFIXED and name[:1] in "nmkMGT":
        from sympy.physics.units.prefixes import PREFIXES

        scale = PREFIXES[name[0]].scale_factor
        size, below, dimensions = _known(name[1:])
        return size * Fraction(int(scale.p), int(scale.q)), below, dimensions
    return None


def _from_sympy(name: str) -> tuple[Fraction, Fraction, dict[str, Fraction]]:
    from sympy.physics import units
    from sympy.physics.units.systems.si import dimsys_SI

    quantity = getattr(units, name)
    size = quantity.scale_factor
    dimensions = dimsys_SI.get_dimensional_dependencies(quantity.dimension)
    return (
        Fraction(int(size.p), int(size.q)),
        Fraction(1),
        {str(dimension.name): Fraction(int(power)) for dimension, power in dimensions.items()},
    )
