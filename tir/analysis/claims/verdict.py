"""Rules that decide a claim: it holds, it does not hold, this n cannot decide it, or it was not measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from tir.analysis.numbers import fixed, probability

HOLDS, FAILS, UNCLEAR, UNMEASURED = "holds", "does not hold", "not distinguishable at this n", "not measured"


@dataclass(frozen=True)
class Finding:
    """A claim's number in this run.

    Attributes:
        verdict: HOLDS, FAILS, UNCLEAR or UNMEASURED.
        measured, lo, hi: the number and its 95 % interval, in the claim's own unit; None if not defined.
        n: the sample size with its unit ("240 items").
        why: the rule that led to the verdict, with its numbers.
        stated_inside: whether the interval contains the paper's number; None if there is no such number or interval.
    """

    verdict: str
    measured: float | None = None
    lo: float | None = None
    hi: float | None = None
    n: str = ""
    why: str = ""
    stated_inside: bool | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            key: float(fixed(value, 6)) if isinstance(value, float) else value for key, value in asdict(self).items()
        }


class NotMeasured(Exception):
    """This run lacks the records of a claim; the message says which."""


def require_finite(finding: Finding) -> Finding:
    """Change the verdict to UNCLEAR if a number is NaN or infinite: a comparison with NaN is always false."""
    if all(math.isfinite(number) for number in (finding.measured, finding.lo, finding.hi) if number is not None):
        return finding
    measured = finding.measured if math.isfinite(finding.measured) else None
    return Finding(
        UNCLEAR, measured, n=finding.n, why="the number, or an end of its interval, is not defined in this run"
    )


def require_seeds(finding: Finding, trained_once: list[str]) -> Finding:
    """Leave a claim about arms with one seed open, without an interval: that of the items lacks the training noise."""
    if not trained_once or finding.verdict == UNMEASURED:
        return finding
    why = f"one seed of {' and of '.join(trained_once)}: nothing follows about training"
    return replace(finding, verdict=UNCLEAR, lo=None, hi=None, stated_inside=None, why=why)


def inside(stated: float | None, lo: float, hi: float) -> bool | None:
    """Whether an interval contains a stated number; None without such a number."""
    return None if stated is None else bool(lo <= stated <= hi)


def direction(
    measured: float,
    lo: float,
    hi: float,
    stated: float,
    *,
    null: float = 0.0,
    p: float | None = None,
    n: str = "",
    alpha: float = 0.05,
) -> Finding:
    """A claim that a number lies on the same side of `null` as `stated`.

    There is an effect if the corrected p-value is below `alpha`; without a p-value, if the interval excludes `null`.
    """
    effect = p < alpha if p is not None else not lo <= null <= hi
    same_side = (measured > null) == (stated > null)
    verdict = UNCLEAR if not effect else HOLDS if same_side else FAILS
    why = (
        f"corrected p {probability(p, equals=True)}"
        if p is not None
        else f"the interval {'excludes' if effect else 'holds'} {null:g}"
    )
    return require_finite(Finding(verdict, measured, lo, hi, n, why, inside(stated, lo, hi)))


def equivalence(measured: float, lo: float, hi: float, stated: float, margin: float, n: str = "") -> Finding:
    """A claim of no difference. It holds if the whole interval lies within the margin; a p-value above 0.05 is not
    enough."""
    if -margin <= lo and hi <= margin:
        verdict, why = HOLDS, f"the interval lies within ±{margin:g}"
    elif lo > 0 or hi < 0:
        verdict, why = FAILS, "the interval excludes 0"
    else:
        verdict, why = UNCLEAR, f"the interval holds 0 and reaches beyond ±{margin:g}"
    return require_finite(Finding(verdict, measured, lo, hi, n, why, inside(stated, lo, hi)))


def value(measured: float, lo: float, hi: float, stated: float, tolerance: float, n: str = "") -> Finding:
    """A claim of a value. It holds if the whole interval lies within the tolerance, and fails if all of it lies
    outside."""
    if hi < stated - tolerance or lo > stated + tolerance:
        verdict, why = FAILS, f"the interval lies outside {stated:g} ± {tolerance:g}"
    elif stated - tolerance <= lo and hi <= stated + tolerance:
        verdict, why = HOLDS, f"the interval lies within {stated:g} ± {tolerance:g}"
    else:
        verdict, why = UNCLEAR, f"the interval holds values within and outside {stated:g} ± {tolerance:g}"
    return require_finite(Finding(verdict, measured, lo, hi, n, why, inside(stated, lo, hi)))


def exact(measured: float, holds: bool, why: str, n: str = "") -> Finding:
    """A claim about a number that has no sampling error."""
    return require_finite(Finding(HOLDS if holds else FAILS, measured, None, None, n, why))
