"""What may be said of a claim: it holds, it does not, or this n cannot tell."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

HOLDS, FAILS, UNCLEAR, UNMEASURED = "holds", "does not hold", "not distinguishable at this n", "not measured"


@dataclass(frozen=True)
class Finding:
    """A claim's number in this run.

    Attributes:
        verdict: one of the four words of this module.
        measured, lo, hi: the number and its 95 % interval, in the claim's own unit; None where there is none.
        n: what was counted, in words.
        why: the rule that led to the verdict, with its numbers.
        stated_inside: whether the paper's number lies in the interval.
    """

    verdict: str
    measured: float | None = None
    lo: float | None = None
    hi: float | None = None
    n: str = ""
    why: str = ""
    stated_inside: bool | None = None

    def as_json(self) -> dict[str, Any]:
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def unmeasured(why: str) -> Finding:
    """A claim about something that this run lacks."""
    return Finding(UNMEASURED, why=why)


def decided(found: Finding) -> Finding:
    """The finding, unless one of its numbers is none: every comparison with NaN is false, so nothing follows from it."""
    if all(math.isfinite(each) for each in (found.measured, found.lo, found.hi) if each is not None):
        return found
    measured = found.measured if math.isfinite(found.measured) else None
    return Finding(UNCLEAR, measured, n=found.n, why="the number, or an end of its interval, is not defined in this run")


def of_training(found: Finding, trained_once: list[str]) -> Finding:
    """The finding, open if it is about arms trained with one seed: its interval holds the noise of items, not that of
    training."""
    if not trained_once or found.verdict not in (HOLDS, FAILS):
        return found
    why = f"one seed of {' and of '.join(trained_once)} has no interval over training runs ({found.why})"
    return replace(found, verdict=UNCLEAR, why=why)


def inside(stated: float | None, lo: float, hi: float) -> bool | None:
    """Whether a stated number lies in an interval."""
    return None if stated is None else bool(lo <= stated <= hi)


def direction(measured: float, lo: float, hi: float, stated: float, *, null: float = 0.0, p: float | None = None,
              n: str = "", alpha: float = 0.05) -> Finding:
    """A claim that something lies on one side of `null`, the side of `stated`.

    With a corrected p-value, that decides whether there is a difference at all; else the interval does.
    """
    there = p < alpha if p is not None else not lo <= null <= hi
    same_side = (measured > null) == (stated > null)
    verdict = UNCLEAR if not there else HOLDS if same_side else FAILS
    word = f"corrected p = {p:.3f}" if p is not None else f"the interval {'excludes' if there else 'holds'} {null:g}"
    return decided(Finding(verdict, measured, lo, hi, n, word, inside(stated, lo, hi)))


def equivalence(measured: float, lo: float, hi: float, stated: float, margin: float, n: str = "") -> Finding:
    """A claim of no difference: the whole interval must lie within the margin; not finding one is no proof."""
    if -margin <= lo and hi <= margin:
        verdict, why = HOLDS, f"the interval lies within ±{margin:g}"
    elif lo > 0 or hi < 0:
        verdict, why = FAILS, "the interval excludes 0"
    else:
        verdict, why = UNCLEAR, f"the interval holds 0 and reaches beyond ±{margin:g}"
    return decided(Finding(verdict, measured, lo, hi, n, why, inside(stated, lo, hi)))


def value(measured: float, lo: float, hi: float, stated: float, tolerance: float, n: str = "") -> Finding:
    """A claim of a value: the interval must lie within the tolerance; one that excludes the value contradicts it."""
    if not lo <= stated <= hi:
        verdict, why = FAILS, f"the interval excludes {stated:g}"
    elif stated - tolerance <= lo and hi <= stated + tolerance:
        verdict, why = HOLDS, f"the interval lies within {stated:g} ± {tolerance:g}"
    else:
        verdict, why = UNCLEAR, f"the interval holds {stated:g} and values further than {tolerance:g} from it"
    return decided(Finding(verdict, measured, lo, hi, n, why, inside(stated, lo, hi)))


def exact(measured: float, holds: bool, why: str, n: str = "") -> Finding:
    """A claim about a number that has no sampling error."""
    return decided(Finding(HOLDS if holds else FAILS, measured, None, None, n, why))
