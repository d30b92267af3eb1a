"""Mathematics metrics: upstream's exact match and token F1, and mathematical equality.

`math_em` and `math_f1` keep upstream's weak normalisation (lower case, single spaces), which is needed to reproduce the
paper's MATH500 column. `math_equal` tests whether two answers denote the same object; docs/scoring.md states when they
do. Strings and integers are compared here, everything else in a process that can be killed (`verifier`, `math_value`).
Upstream's string comparison (`utils/math_equivalence.py`) finds `025` and `25`, `1,000` and `1000`, `2.0` and `2`,
`$18` and `18`, and `3\\sqrt13` and `3\\sqrt{13}` unequal; here they are equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tir.scoring.answers.qa import gold_list
from tir.scoring.answers.verifier import Verifier, default_verifier

LONGEST = 1000  # characters; longer answers are compared as strings only
_INTEGER = re.compile(r"^[+-]?[0-9]{1,100}$")


def math_normalize(text: object) -> str:
    """Upstream's normalisation of math answers: lower case, single spaces; no character is removed."""
    return " ".join(str(text).lower().split())


def math_em(prediction: str | None, gold: Sequence[object] | object) -> float:
    """1.0 if the strings are equal after `math_normalize`, else 0.0; an integer gold is converted to a string."""
    if prediction is None:
        return 0.0
    return max(float(math_normalize(prediction) == math_normalize(each)) for each in gold_list(gold))


def math_accuracy(prediction: str | None, gold: Sequence[object] | object) -> float:
    """1.0 if the gold is a substring of the prediction after `math_normalize`, else 0.0."""
    if prediction is None:
        return 0.0
    return max(float(math_normalize(each) in math_normalize(prediction)) for each in gold_list(gold))


def math_f1(prediction: str | None, gold: Sequence[object] | object) -> float:
    """F1 over white-space tokens after `math_normalize`, in [0, 1]."""
    if prediction is None:
        return 0.0
    return max(_token_f1(math_normalize(prediction).split(), math_normalize(each).split()) for each in gold_list(gold))


def math_equal(prediction: str | None, gold: Sequence[object] | object, verifier: Verifier | None = None) -> bool:
    """Whether the prediction denotes the same mathematical object as (one of) the gold.

    Args:
        prediction: the extracted answer, with or without `\\boxed{}` around it.
        gold: string, number, or a list of accepted answers.
        verifier: workers for symbolic comparison; the process-wide one by default, started only if needed.

    Raises `ToolUnavailable` if symbolic comparison is needed and no worker can be started.
    """
    if prediction is None or not str(prediction).strip():
        return False
    return any(_equal_texts(str(prediction), str(each), verifier) for each in gold_list(gold))


def _equal_texts(prediction: str, gold: str, verifier: Verifier | None) -> bool:
    if prediction.split() == gold.split():
        return True
    if _INTEGER.match(prediction) and _INTEGER.match(gold):
        return int(prediction) == int(gold)
    if max(len(prediction), len(gold)) > LONGEST:
        return False
    return (verifier or default_verifier()).equal(prediction, gold)


def _token_f1(prediction: list[str], gold: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold)) if shared else 0.0
