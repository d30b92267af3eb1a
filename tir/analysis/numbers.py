"""How numbers are printed, everywhere: the decimal number that is meant, with halves away from zero.

A float is first read to 12 significant digits. So 38.75, which a mean may hold as 38.74999999999999, becomes 38.8, like
48.75 becomes 48.8. Python's own formatting gives 38.7 for it, and rounds other halves to the even digit.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal


def fixed(value: float, digits: int, *, sign: bool = False) -> str:
    """A number with `digits` decimals; with `sign`, a plus before a positive one. Zero has no minus."""
    if not math.isfinite(value):
        return str(float(value))
    rounded = Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}f}"


def significant(value: float, digits: int) -> str:
    """A number with `digits` significant digits, without zeros at its end ("0.0714", "1.1e-06")."""
    if not math.isfinite(value):
        return str(float(value))
    rounded = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(f"{value:.12g}")
    return f"{float(rounded):.{digits}g}"


def probability(value: float, digits: int = 3, *, equals: bool = False) -> str:
    """A p-value for a reader: "0.012", or "< 0.001" where it would be 0; with `equals`, "= 0.012"."""
    shown = fixed(value, digits)
    return f"{'= ' if equals else ''}{shown}" if float(shown) else f"< {10**-digits:.{digits}f}"


def points(fraction: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction as percentage points ("36.7"); empty for None."""
    return "" if fraction is None else fixed(100 * fraction, digits, sign=sign)
