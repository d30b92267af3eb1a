r"""Numbers, expressions, equations and sets of reals: how they are parsed from one expression, and when they are equal.

A decimal stands for an exact value if it has at least `DIGITS` significant digits and is that value, rounded or cut
off. Two exact values are equal if they agree exactly, or to 30 significant digits where they are irrational. All
tolerances are relative to the value. Expressions with variables are compared at random points, to 25 digits.
"""

from __future__ import annotations

import ast
import random
import re
from dataclasses import dataclass
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy.core.function import AppliedUndef

from tir.scoring.answers.math_text import GREEK, latex

DIGITS = 6  # least significant digits of a decimal that may stand for another value
DOUBLE = 15  # from so many digits on, a decimal may carry the rounding error of double arithmetic
_DOUBLE_ERROR = sympy.Rational(1, 10**14)
_POINTS = 5
_MODULES = ("", "sympy", "sp", "math", "np", "numpy")
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_SIMPLE = re.compile(
    rf"^(?P<sign>[-+]?)\s*(?:\(?\s*(?P<inner>-?)(?P<mantissa>{_DECIMAL})\s*\)?"
    rf"(?:\s*(?:\\times|\\cdot|\*|[xX])\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[-+]?\d{{1,3}})\s*\}}?|[eE](?P<e>[-+]?\d{{1,3}}))?)$"
)
_RECURRING = (
    re.compile(r"^([-+]?\d*\.\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?$"),
    re.compile(r"^([-+]?\d*\.\d*)\((\d+)\)$"),
    re.compile(r"^([-+]?\d*\.\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?$"),
    re.compile(r"^([-+]?\d*\.\d*?)(?:(\d+?)\2{2,}|(\d\d+)\3+)\.\.\.$"),
)
_NO_ALGEBRA = re.compile(  # the names of points in angles and triangles do not commute
    r"\d \d|\d *\. +\d|\d +\. *\d|[\ue000-\uf8ff'\"%#]|\d_|(?<![\\A-Za-z])(?![A-Za-z]*\()[A-Za-z]{4,}"
    r"|\.\.\.|!!|[:?]|\((?:[a-h]|ii+)\) *\d|--|\\\$|\\(?:not|forall|exists|equiv|pmod|dots|mod|angle|triangle|nabla)\b"
)

_NO_PYTHON = re.compile(r"\\|\d_\d|[eE][-+]?\d{4}|#|--")  # Python reads 102 from 10_2, 0 from 1e-9999, 5 from 5 # 6
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z]*matrix\}|\\operatorname")


class Unreadable(Exception):
    """A text without mathematical value."""


@dataclass(frozen=True)
class Number:
    """A value; for a decimal also the size of its last digit (`step`) and its number of significant digits."""

    value: sympy.Expr
    step: sympy.Rational | None = None
    digits: int = 0

    def times(self, factor) -> Number:
        """The number in another unit."""
        if factor == 1:
            return self
        return Number(self.value * factor, None if self.step is None else self.step * abs(factor), self.digits)


def plain_number(text: str) -> Number | None:
    r"""An integer, a decimal, a power of ten or a recurring decimal (`0.\overline{3}`, `0.333...`); else None."""
    compact = text.replace(" ", "") if not re.search(r"\d \d", text) else text
    for pattern in _RECURRING:
        if match := pattern.match(compact):
            lead, cycle = match.group(1), "".join(filter(None, match.groups()[1:]))
            places = len(lead.partition(".")[2])
            head = sympy.Rational(lead if lead[-1] != "." else f"{lead}0") if lead.strip("+-.") else sympy.Integer(0)
            tail = sympy.Rational(int(cycle), (10 ** len(cycle) - 1) * 10**places)
            return Number(head - tail if lead.startswith("-") else head + tail)
    match = _SIMPLE.match(text)
    if not match:
        return None
    mantissa, power = match.group("mantissa"), int(match.group("power") or match.group("e") or 0)
    value = sympy.Rational(mantissa.rstrip(".") if mantissa[0] != "." else f"0{mantissa}") * sympy.Integer(10) ** power
    value = -value if (match.group("sign") == "-") != (match.group("inner") == "-") else value
    whole, point, places = mantissa.partition(".")
    if not places:
        return Number(value)
    step = sympy.Rational(1, 10 ** len(places)) * sympy.Integer(10) ** power
    return Number(value, step, len((whole + places).lstrip("0")))


@lru_cache(maxsize=256)
def expression(text: str, natural: bool) -> Number | sympy.Set | sympy.Eq:
    """The value of an expression in Python, sympy or LaTeX spelling; raises `Unreadable`."""
    if not _NO_PYTHON.search(text):
        try:
            value = _Python(natural).visit(ast.parse(text.replace("^", "**").strip(), mode="eval").body)
        except (Unreadable, SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
            value = None
        if value is not None:
            return value if isinstance(value, (sympy.Set, sympy.Eq)) else Number(_exact(value))
    prepared = latex(text)
    if _NO_ALGEBRA.search(_ENVIRONMENT.sub("", prepared)):
        raise Unreadable(text)
    try:
        value = latex2sympy(
            prepared, is_real=True, convert_degrees=False, normalization_config=None, conversion_config=_CONVERSION
        )
    except Exception as error:  # noqa: BLE001  (the parser raises plain exceptions)
        raise Unreadable(f"{text}: {type(error).__name__}") from None
    if isinstance(value, sympy.Set) and not isinstance(value, sympy.FiniteSet):
        return value
    if not isinstance(value, (sympy.Expr, sympy.MatrixBase)) or isinstance(value, sympy.Tuple):
        raise Unreadable(text)
    return Number(_exact(value))


def same_number(left: Number, right: Number) -> bool:
    """Whether two numbers, expressions or matrices are equal."""
    a, b = left.value, right.value
    matrices = [isinstance(each, sympy.MatrixBase) for each in (a, b)]
    if any(matrices):
        return (
            all(matrices)
            and a.shape == b.shape
            and all(same_number(Number(x), Number(y)) for x, y in zip(a, b, strict=True))
        )
    if a == b:
        return True
    if a.free_symbols or b.free_symbols:
        return _agree_at_points(a, b)
    if a.is_infinite or b.is_infinite or a is sympy.nan or b is sympy.nan:
        return False
    if a.is_Rational and b.is_Rational:
        return _stands_for(left, right) or _stands_for(right, left)
    if (left.step is None) == (right.step is None):
        return _same_constant(a, b)
    decimal, exact = (left, right) if left.step is not None else (right, left)
    value = exact.value.evalf(40)
    return bool(value.is_Float) and _stands_for(decimal, Number(sympy.Rational(value)))


def _stands_for(decimal: Number, exact: Number) -> bool:
    """Whether a decimal is another number, rounded or cut off, or equal up to the error of double arithmetic."""
    if decimal.step is None:
        return False
    error, cut = abs(decimal.value - exact.value), abs(exact.value) - abs(decimal.value)
    if (
        exact.step is None
        and decimal.digits >= DIGITS
        and (2 * error <= decimal.step or 0 <= cut == error < decimal.step)
    ):
        return True
    return decimal.digits >= DOUBLE and error <= _DOUBLE_ERROR * abs(exact.value)


def _same_constant(a: sympy.Expr, b: sympy.Expr) -> bool:
    x, y = a.evalf(50), b.evalf(50)
    if not (x.is_number and y.is_number) or x.has(sympy.nan, sympy.zoo) or y.has(sympy.nan, sympy.zoo):
        return False
    try:
        if abs(x - y) > sympy.Float("1e-30") * max(abs(x), abs(y)):
            tiny = min(abs(x), abs(y)) < sympy.Float("1e-40") * sum(abs(each.evalf(50)) for each in (a - b).args)
            return bool(tiny and (a - b).equals(0))
        return True
    except TypeError:
        return False


def _agree_at_points(a: sympy.Expr, b: sympy.Expr) -> bool:
    agreed = 0
    for x, y in _values((a, b)):
        if abs(x - y) > sympy.Float("1e-25") * max(abs(x), abs(y), sympy.Float("1e-15")):
            return False
        agreed += 1
    return agreed >= 3


def _values(expressions: tuple[sympy.Expr, ...]):
    """Values of the expressions at random points of both signs where all are defined.

    Without the imaginary unit in them, roots and logarithms are real: points with those of a negative number are left
    out. With an absolute value in one of them they are not, so that `\\ln|x|` is not `\\ln x`.
    """
    symbols = sorted(set().union(*(each.free_symbols for each in expressions)), key=str)
    roots = set().union(*(each.atoms(sympy.Pow) for each in expressions))
    roots = {each.base for each in roots if each.exp.is_Rational and each.exp.q % 2 == 0 and each.free_symbols}
    roots |= {log.args[0] for each in expressions for log in each.atoms(sympy.log) if log.free_symbols}
    if any(each.has(sympy.I) for each in expressions) or len({each.has(sympy.Abs) for each in expressions}) > 1:
        roots = set()
    draw, found = random.Random(0), 0
    for number in range(12 * _POINTS if roots else 3 * _POINTS):
        scale = 1009 if number % 2 else 17  # |x - 5| and 5 - x agree near zero
        point = {symbol: sympy.Rational(draw.randint(-3000 if number % 3 else 1, 3000), scale) for symbol in symbols}
        if any(each.xreplace(point).doit().evalf().is_negative for each in roots):
            continue
        if (found := found + 1) > 3 * _POINTS:
            return
        values = [each.xreplace(point).doit().evalf(40) for each in expressions]
        if all(value.is_number and not value.has(sympy.nan, sympy.zoo, sympy.oo) for value in values):
            yield values


def same_relation(left: sympy.Expr, right: sympy.Expr, ordered: bool) -> bool:
    """Whether `left = 0` and `right = 0` are equivalent; with `ordered`, `left < 0` and `right < 0`.

    They are if one is a constant multiple of the other (positive for inequalities), or if an equation is linear in a
    variable and the other is solved for it.
    """
    if left.free_symbols != right.free_symbols or not left.free_symbols:
        return False
    ratios = [x / y for x, y in _values((left, right)) if abs(y) > sympy.Float("1e-15")][:_POINTS]
    constant = len(ratios) >= 3 and all(
        abs(each - ratios[0]) < sympy.Float("1e-25") * abs(ratios[0]) for each in ratios
    )
    if constant and ratios[0] != 0 and (not ordered or sympy.re(ratios[0]) > 0):
        return True
    return not ordered and any(_solved(a, b) for a, b in ((left, right), (right, left)))


def _solved(solved: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether `solved` is y - f(x), and `other` is linear in y and zero for y = f(x)."""
    solved, other = solved.doit().expand(), other.doit().expand()
    for symbol in solved.free_symbols:
        value = symbol - solved
        if symbol not in value.expand().free_symbols and other.is_polynomial(symbol):
            polynomial = sympy.Poly(other, symbol)
            if polynomial.degree() == 1 and _agree_at_points(other.subs(symbol, value.expand()), sympy.Integer(0)):
                return True
    return False


def solution_set(expressions: list[sympy.Expr], operators: list[str]) -> sympy.Set:
    """The reals that satisfy a chain of relations in one variable."""
    kinds = {"<": sympy.Lt, ">": sympy.Gt, r"\le": sympy.Le, r"\ge": sympy.Ge, r"\ne": sympy.Ne, "=": sympy.Eq}
    result = sympy.S.Reals
    for left, operator, right in zip(expressions, operators, expressions[1:]):
        relation = kinds[operator](left.doit(), right.doit())
        if relation in (sympy.true, sympy.false):
            result = result if relation is sympy.true else sympy.S.EmptySet
            continue
        try:
            result = result.intersect(relation.as_set())
        except Exception as error:  # noqa: BLE001  (sympy raises many kinds)
            raise Unreadable(f"{relation}: {type(error).__name__}") from None
    return result


def same_region(left: sympy.Set, right: sympy.Set) -> bool:
    """Whether two sets of reals are equal: the same intervals and points, with the same ends."""
    if left == right:
        return True
    components = [_components(each) for each in (left, right)]
    if None in components or len(components[0]) != len(components[1]):
        return False
    return all(
        a[2:] == b[2:] and same_number(Number(a[0]), Number(b[0])) and same_number(Number(a[1]), Number(b[1]))
        for a, b in zip(*components, strict=True)
    )


def _components(region: sympy.Set) -> list[tuple] | None:
    """Intervals and points of a set, ascending, as (start, end, left_open, right_open); None for another set."""
    found = []
    for part in region.args if isinstance(region, sympy.Union) else (region,):
        if isinstance(part, sympy.Interval):
            found.append((part.start, part.end, part.left_open, part.right_open))
        elif isinstance(part, sympy.FiniteSet) and all(each.is_extended_real for each in part):
            found += [(each, each, False, False) for each in part]
        elif part is sympy.S.Reals:
            found.append((-sympy.oo, sympy.oo, True, True))
        else:
            return None
    return sorted(found, key=lambda component: (float(component[0]), float(component[1])))


def _exact(value):
    """The value with exact numbers, the imaginary unit, and functions that are not known as variables."""
    if isinstance(value, sympy.MatrixBase):
        return sympy.Matrix(value).applyfunc(_exact)
    value = value.xreplace({each: sympy.Rational(str(each)) for each in value.atoms(sympy.Float)})
    operators = value.atoms(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
    bound = {index for each in operators for index in getattr(each, "bound_symbols", each.args[1:2])}
    subscripts = {part for each in value.free_symbols for part in re.findall(r"\w+", each.name.replace("_", " "))[1:]}
    if operators and (value.has(AppliedUndef) or subscripts & {each.name for each in bound}):
        raise Unreadable("a sum, an integral or a limit of an unknown function")
    units = {each: sympy.I for each in value.free_symbols - bound if each.name == "i"}
    value = value.xreplace(units | {each: sympy.Symbol(str(each), real=True) for each in value.atoms(AppliedUndef)})
    if value.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit) or not value.free_symbols:
        value = value.doit()
    if not value.has(sympy.I):
        value = value.replace(
            _is_odd_root, lambda root: sympy.sign(root.base) ** root.exp.p * abs(root.base) ** root.exp
        )
    if value.has(sympy.zoo, sympy.nan):
        raise Unreadable("not defined")
    return value


def _is_odd_root(value) -> bool:
    """Whether a value is a root that is real for a negative base, where sympy takes the complex one."""
    return value.is_Pow and value.exp.is_Rational and value.exp.q % 2 and value.exp.q > 1 and not value.base.is_positive


class _Python(ast.NodeVisitor):
    """Evaluates Python's and sympy's spelling of an expression without running it."""

    _OPERATORS = {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b,
        ast.Pow: lambda a, b: sympy.Pow(a, b, evaluate=False) if b.is_number and abs(b) > 10**4 else a**b,
    }
    _NAMES = {"pi": sympy.pi, "oo": sympy.oo, "inf": sympy.oo, "E": sympy.E, "e": sympy.E, "I": sympy.I, "i": sympy.I}
    _CALLS = {
        **{name: getattr(sympy, name) for name in "sqrt cbrt exp ln factorial binomial gcd lcm floor Matrix".split()},
        **{name: getattr(sympy, name) for name in "sin cos tan cot sec csc asin acos atan sinh cosh tanh".split()},
        **{name: getattr(sympy, name) for name in "Rational Integer Interval Union FiniteSet Eq Abs Max Min".split()},
        "abs": sympy.Abs,
        "max": sympy.Max,
        "min": sympy.Min,
        "ceil": sympy.ceiling,
        "ceiling": sympy.ceiling,
        "arcsin": sympy.asin,
        "arccos": sympy.acos,
        "arctan": sympy.atan,
        "Fraction": sympy.Rational,
    }

    def __init__(self, natural: bool):
        self._natural = natural

    def generic_visit(self, node):
        raise Unreadable(type(node).__name__)

    def visit_Constant(self, node):
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float, complex)):
            raise Unreadable("constant")
        if isinstance(node.value, complex):
            return sympy.Rational(str(node.value.imag)) * sympy.I
        return sympy.Rational(str(node.value)) if isinstance(node.value, float) else sympy.Integer(node.value)

    def visit_Name(self, node):
        if node.id in self._NAMES:
            return self._NAMES[node.id]
        if re.fullmatch(r"[A-Za-z](?:_?\d+)?", node.id) or node.id in GREEK:
            return sympy.Symbol(
                re.sub(r"^([A-Za-z])_?(\d+)$", r"\1_\2", node.id) if node.id[1:] else node.id, real=True
            )
        raise Unreadable(node.id)

    def visit_Attribute(self, node):
        if getattr(node.value, "id", "") in _MODULES and node.attr in self._NAMES:
            return self._NAMES[node.attr]
        raise Unreadable(node.attr)

    def visit_UnaryOp(self, node):
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.USub):
            return -operand
        if isinstance(node.op, ast.UAdd):
            return operand
        raise Unreadable("operator")

    def visit_BinOp(self, node):
        if type(node.op) not in self._OPERATORS:
            raise Unreadable("operator")
        return self._OPERATORS[type(node.op)](self.visit(node.left), self.visit(node.right))

    def visit_List(self, node):
        return [self.visit(each) for each in node.elts]

    visit_Tuple = visit_List

    def visit_Call(self, node):
        if node.keywords:
            raise Unreadable("keywords")
        arguments = [self.visit(each) for each in node.args]
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if owner == "Interval" and name in ("open", "Lopen", "Ropen"):
            return getattr(sympy.Interval, name)(*arguments)
        if owner not in _MODULES:
            raise Unreadable(owner)
        if name in ("log", "log10", "log2"):
            base = {"log10": 10, "log2": 2}.get(name, sympy.E if self._natural else 10)
            return sympy.log(arguments[0], *(arguments[1:] or [base]))
        if name not in self._CALLS:
            raise Unreadable(name)
        return self._CALLS[name](*arguments)
