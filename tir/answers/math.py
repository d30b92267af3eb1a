"""Mathematics metrics: upstream's exact match and token F1, and mathematical equality.

`math_em` and `math_f1` keep upstream's weak normalisation (lower case, single spaces) because the paper's MATH500
column can only be reproduced with it. `math_equal` asks whether two answers denote the same thing: spelling first
(`math_text`), exact rationals, tuples and sets item by item, and computer algebra in a killable process for the rest
(`verifier`). Upstream's string rule (`utils/math_equivalence.py`) calls `025` and `25`, `1,000` and `1000`, `2.0` and
`2`, `$18` and `18`, and `3\\sqrt13` and `3\\sqrt{13}` different; here they are equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tir.answers.math_text import LONGEST, Expression, items, number, read, units_agree
from tir.answers.qa import gold_list
from tir.answers.verifier import Verifier, default_verifier


_SPELLING = re.compile(r"^\d[\dA-Z]*_\{?\d+\}?$|\d \d")  # no value for algebra: a numeral with its base, digits apart


def math_normalize(text: object) -> str:
    """Upstream's normalisation of math answers: lower case, white space collapsed, nothing removed."""
    return " ".join(str(text).lower().split())


def math_em(prediction: str | None, gold: Sequence[object] | object) -> float:
    """1.0 if the strings are equal after `math_normalize`, else 0.0; a JSON integer gold counts as its digits."""
    if prediction is None:
        return 0.0
    return max(float(math_normalize(prediction) == math_normalize(each)) for each in gold_list(gold))


def math_accuracy(prediction: str | None, gold: Sequence[object] | object) -> float:
    """1.0 if the gold stands inside the prediction after `math_normalize`, else 0.0."""
    if prediction is None:
        return 0.0
    return max(float(math_normalize(each) in math_normalize(prediction)) for each in gold_list(gold))


def math_f1(prediction: str | None, gold: Sequence[object] | object) -> float:
    """F1 over white-space tokens after `math_normalize`, in [0, 1]; on one-token golds it equals `math_em`."""
    if prediction is None:
        return 0.0
    return max(_token_f1(math_normalize(prediction).split(), math_normalize(each).split()) for each in gold_list(gold))


def math_equal(prediction: str | None, gold: Sequence[object] | object, verifier: Verifier | None = None) -> bool:
    """Whether the prediction denotes the same mathematical object as (one of) the gold.

    Args:
        prediction: the extracted answer, without or with a box around it.
        gold: string, number, or a list of accepted answers.
        verifier: workers for symbolic comparison; the process-wide one by default, started only if needed.

    Raises `ToolUnavailable` if symbolic comparison is needed and no worker can be started.
    """
    if prediction is None or not str(prediction).strip():
        return False
    return any(_equal_texts(str(prediction), str(each), verifier) for each in gold_list(gold))


def _equal_texts(prediction: str, gold: str, verifier: Verifier | None) -> bool:
    if math_normalize(prediction) == math_normalize(gold):
        return True
    if max(len(prediction), len(gold)) > LONGEST:
        return False
    return _equal(read(prediction), read(gold), verifier)


def _equal(prediction: Expression, gold: Expression, verifier: Verifier | None) -> bool:
    if gold.words or prediction.words:
        return _spelled(prediction) == _spelled(gold)
    if not prediction.key or not gold.key:
        return False
    if prediction.whole == gold.whole:
        return True
    left, right = number(prediction.latex), number(gold.latex)
    if left is not None and right is not None:
        return _equal_numbers(left, prediction.unit, right, gold.unit)
    if not units_agree(prediction.unit, gold.unit):
        return False
    if prediction.key == gold.key:
        return True
    verdict = _equal_collections(prediction.key, gold.key, verifier)
    if verdict is not None:
        return verdict
    if _SPELLING.search(gold.key) or _SPELLING.search(prediction.key):
        return False
    verifier = verifier or default_verifier()
    if verifier.equal(prediction.latex, gold.latex):
        return True
    both_equations = bool(prediction.equation and gold.equation)
    return both_equations and verifier.equal(prediction.equation, gold.equation)


def _spelled(expression: Expression) -> str:
    """What is compared when either side is text: its words or symbols, in lower case and without blanks ("B" against "(B)")."""
    return expression.words.replace(" ", "") or expression.key.replace(" ", "").lower()


def _equal_numbers(left, left_unit: str, right, right_unit: str) -> bool:
    if not units_agree(left_unit, right_unit):
        return False
    if left == right:
        return True
    if (left_unit == "%") != (right_unit == "%"):  # 10 % is 10 (upstream) and it is 0.1
        return left == right / 100 if right_unit == "%" else left / 100 == right
    return False


def _equal_collections(prediction: str, gold: str, verifier: Verifier | None) -> bool | None:
    """Item by item for tuples, intervals, sets and lists; None if neither side is one."""
    left, right = items(prediction), items(gold)
    if left is None and right is None:
        return None
    if left is None or right is None:
        single = left or right
        if single[0] == "\\{" and len(single[1]) == 1 and not single[1][0].startswith("\\{"):  # {12} against 12
            other = gold if right is None else prediction
            return _equal_texts(single[1][0], other, verifier)
        return None if "\\cup" in prediction + gold or "matrix" in prediction + gold else False
    if len(left[1]) != len(right[1]):
        return False
    ordered = "(" in (left[0] + right[0]) or "[" in (left[0] + right[0])
    bracketed = left[0] not in ("", "\\{") and right[0] not in ("", "\\{")
    if bracketed and (left[0], left[2]) != (right[0], right[2]):
        return False  # (2,4] is not (2,4)
    if ordered:
        return all(_equal_texts(a, b, verifier) for a, b in zip(left[1], right[1], strict=True))
    unmatched = list(right[1])
    for item in left[1]:
        match = next((other for other in unmatched if _equal_texts(item, other, verifier)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _token_f1(prediction: list[str], gold: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold)) if shared else 0.0
