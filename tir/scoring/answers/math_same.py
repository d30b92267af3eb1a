r"""Whether two mathematical answers denote the same object, by the types of their values (policy: docs/scoring.md)."""

from __future__ import annotations

from itertools import product

import sympy

from tir.scoring.answers import units
from tir.scoring.answers.math_algebra import Number, Unreadable, expression, same_number, same_region, same_relation
from tir.scoring.answers.math_value import (
    Items,
    Mark,
    Named,
    Region,
    Relation,
    Scalar,
    Words,
    expression_of,
    read,
    region,
)


def equal(prediction: str, gold: str) -> bool:
    """Whether two answers denote the same object; raises `Unreadable` if one of them has no value."""
    (prediction_key, predictions), (gold_key, golds) = read(prediction), read(gold)
    if prediction_key == gold_key and prediction_key:
        return True
    for left, right in product(predictions or (None,), golds or (None,)):
        if isinstance(left, Words) or isinstance(right, Words):
            texts = [
                each.text if isinstance(each, Words) else key.lower()
                for each, key in ((left, prediction_key), (right, gold_key))
            ]
            if texts[0].replace(" ", "") == texts[1].replace(" ", ""):
                return True
        elif left is not None and right is not None and same(left, right):
            return True
    if not predictions or not golds:
        raise Unreadable(gold if predictions else prediction)
    return False


def same(left, right, inside: bool = False) -> bool:
    """Whether a predicted value equals a gold value; `inside`: both are items of a list, a tuple or a set."""
    if not inside:
        left, right = _unwrapped(left, right), _unwrapped(right, left)
    if isinstance(left, Named) or isinstance(right, Named):
        return _same_named(left, right)
    if isinstance(left, Relation) or isinstance(right, Relation):
        both = isinstance(left, Relation) and isinstance(right, Relation) and left.operator == right.operator
        return both and same_relation(left.difference, right.difference, ordered=left.operator in ("<", "<="))
    if isinstance(left, Region) or isinstance(right, Region):
        try:
            return same_region(region(left), region(right))
        except Unreadable:
            return False
    if isinstance(left, Items) and isinstance(right, Items):
        return _same_items(left, right)
    if isinstance(left, Items) or isinstance(right, Items):
        return _same_vector(left, right)
    if isinstance(left, Mark) or isinstance(right, Mark):
        return _same_marks(left, right)
    if isinstance(left, Words) or isinstance(right, Words):
        return left == right
    return _same_scalars(left, right)


def _unwrapped(value, other):
    """The only item of a set or of Python's list, for comparison with something else: {12} equals 12.

    A set in a set stays: {{1, 2}} has one item, {1, 2} has two.
    """
    single = isinstance(value, Items) and len(value.items) == 1 and value.opening in ("{", "[")
    item = value.items[0] if single else None
    if isinstance(item, Region) or isinstance(item, Items) and item.opening in ("{", "["):
        single = value.opening == "["
    return value.items[0] if single and not (isinstance(other, Items) and len(other.items) == 1) else value


def _same_named(left, right) -> bool:
    if isinstance(left, Named) and isinstance(right, Named):
        if left.values.keys() == right.values.keys():
            return all(same(value, right.values[name]) for name, value in left.values.items())
        values = [*left.values.values(), *right.values.values()]
        return len(values) == 2 and not all(map(_is_constant, values)) and _same_as_relations(left, right)
    named, other = (left, right) if isinstance(left, Named) else (right, left)
    if isinstance(other, Relation):
        return len(named.values) == 1 and _same_as_relations(left, right)
    values = list(named.values.values())
    if len(values) == 1:
        return same(values[0], other) if named is left else same(other, values[0])
    # x=1, y=2 is (1,2) if the names are in the order of the alphabet.
    fits = isinstance(other, Items) and other.opening in ("(", "") and len(other.items) == len(values)
    if not fits or list(named.values) != sorted(named.values):
        return False
    pairs = zip(values, other.items, strict=True)
    return all(same(mine, its) if named is left else same(its, mine) for mine, its in pairs)


def _is_constant(value) -> bool:
    return isinstance(value, Scalar) and not value.number.value.free_symbols


def _same_as_relations(left, right) -> bool:
    """Compare y = 2x with 2x - y = 0, or with x = y/2."""
    differences = []
    for each in (left, right):
        if isinstance(each, Named):
            name, value = next(iter(each.values.items()))
            try:
                each = Relation(expression(name, True).value - expression_of(value), "=")
            except Unreadable:
                return False
        differences.append(each)
    first, second = differences
    return first.operator == second.operator and same_relation(first.difference, second.difference, ordered=False)


def _same_items(left: Items, right: Items) -> bool:
    if len(left.items) != len(right.items):
        return False
    kinds = {left.opening, right.opening}
    if kinds == {"(", "{"} or (kinds != {"builder"} and "builder" in kinds):
        return False  # a tuple is no set
    if kinds == {"(", "["}:
        if len(left.items) == 2:
            return False  # an open interval is no closed one
    elif right.opening == "[" and left.opening == "{" and _increasing(right):
        return False  # the gold answer is an interval
    elif "{" in kinds or kinds == {""} or (kinds == {"", "["} and not (right.opening == "[" and _increasing(right))):
        return _same_in_any_order(left.items, right.items)
    return all(same(mine, its, True) for mine, its in zip(left.items, right.items, strict=True))


def _same_vector(left, right) -> bool:
    """Compare a matrix of one column or one row with a tuple."""
    items, other = (left, right) if isinstance(left, Items) else (right, left)
    matrix = other.number.value if isinstance(other, Scalar) and other.unit.empty else None
    if not isinstance(matrix, sympy.MatrixBase) or items.opening != "(" or 1 not in matrix.shape:
        return False
    entries = [Scalar(Number(entry)) for entry in matrix]
    return len(entries) == len(items.items) and all(map(same, entries, items.items))


def _increasing(items: Items) -> bool:
    """Whether the items could be the ends of an interval."""
    try:
        ends = [expression_of(item) for item in items.items]
        return len(ends) == 2 and bool(ends[0] < ends[1])
    except (Unreadable, TypeError):
        return False


def _same_in_any_order(left: tuple, right: tuple) -> bool:
    unmatched = list(right)
    for item in left:
        match = next((position for position, other in enumerate(unmatched) if same(item, other, True)), None)
        if match is None:
            return False
        del unmatched[match]
    return True


def _same_marks(left, right) -> bool:
    if isinstance(left, Mark) and isinstance(right, Mark):
        if left.kind == right.kind == "ratio":
            return len(left.parts) == len(right.parts) and all(
                same_number(Number(a * right.parts[0]), Number(b * left.parts[0]))
                for a, b in zip(left.parts, right.parts, strict=True)
            )
        if left.kind == right.kind == "clock":
            return left.parts[1:3] == right.parts[1:3] and _same_hour(left, right)
        return left == right
    mark, other = (left, right) if isinstance(left, Mark) else (right, left)
    if mark.kind == "ratio" and len(mark.parts) == 2 and isinstance(other, Scalar) and other.unit.empty:
        return same_number(Number(mark.parts[0] / mark.parts[1]), other.number)
    return False


def _same_hour(left: Mark, right: Mark) -> bool:
    """Compare hours; 2:30 pm is 14:30, and 2:30 alone agrees with 2:30 am and 2:30 pm."""
    (left_hour, left_half), (right_hour, right_half) = ((each.parts[0], each.parts[3]) for each in (left, right))
    if bool(left_half) != bool(right_half) and 0 < min(left_hour, right_hour) and max(left_hour, right_hour) <= 12:
        return left_hour % 12 == right_hour % 12
    first, second = (
        hour % 12 + 12 * (half == "p") if half and hour <= 12 else hour
        for hour, half in ((left_hour, left_half), (right_hour, right_half))
    )
    return first == second


def _same_scalars(left: Scalar, right: Scalar) -> bool:
    if (left.unit == units.PERCENT) != (right.unit == units.PERCENT):
        percent, other = (left, right) if left.unit == units.PERCENT else (right, left)
        return other.unit.empty and any(
            same_number(percent.number.times(scale), other.number) for scale in (1, sympy.Rational(1, 100))
        )
    factor = units.factor_between(left.unit, right.unit)
    return factor is not None and same_number(
        left.number.times(sympy.Rational(factor.numerator, factor.denominator)), right.number
    )
