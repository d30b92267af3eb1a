r"""Question-answering metrics: SQuAD's exact match and token F1, substring accuracy, and a F1 that can read Chinese.

Every metric takes one prediction and any number of golds and returns the best value over the golds, in [0, 1]. A
prediction that is None or blank scores 0. The prompt demands a boxed answer in LaTeX, so `\text{Paris}` is read as Paris, but for
parity, where a text counts `as_written`: upstream's normalisation makes textparis of it. Source: paper section 4, "Evaluation metrics"; upstream
`evaluation/evaluate/scripts/evaluate.py` computes the same values but keeps those of the *last* gold, which
`upstream_last_gold` reproduces for parity.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

CLOSED_ANSWERS = ("yes", "no", "noanswer")

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LATEX_TEXT = re.compile(r"\\(?:text(?:rm|bf|it|normal)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}")
_LATEX_BLANK = re.compile(r"\\[ ,]|~")
# Han, kana, hangul and the CJK extensions: scripts written without spaces (or where a syllable is the unit).
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def normalize(text: object) -> str:
    """SQuAD normalisation: lower case, no ASCII punctuation, no English articles, single spaces."""
    bare = str(text).lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def plain(text: object) -> str:
    r"""A text without LaTeX's marks of text (`\text{}`, `\textbf{}`, `\mathrm{}`, ...), with blanks for `~`, `\ ` and `\,`."""
    value, count = _LATEX_BLANK.sub(" ", str(text)), 1
    while count:  # from the inside out
        value, count = _LATEX_TEXT.subn(r"\1", value)
    return value


def exact_match(prediction: str | None, golds: Sequence[object] | object, *, as_written: bool = False) -> float:
    """1.0 if the normalised prediction equals a normalised gold, else 0.0."""
    return _best(_equal, prediction, golds, as_written)


def token_f1(
    prediction: str | None,
    golds: Sequence[object] | object,
    *,
    closed_answers: bool = False,
    empty_matches: bool = True,
    as_written: bool = False,
) -> float:
    """Harmonic mean of token precision and recall after normalisation, in [0, 1].

    Args:
        closed_answers: where either side is yes, no or noanswer, demand equality (HotpotQA's rule, used by the reward).
        empty_matches: two texts that both normalise to nothing ("A", "+") match, as in SQuAD 2.0; False is SQuAD 1.1
            and upstream, where a gold "A" cannot be answered.
        as_written: LaTeX is compared as it stands, as upstream.
    """
    return _best(lambda text, gold: _token_f1(text, gold, closed_answers, empty_matches), prediction, golds, as_written)


def substring_accuracy(prediction: str | None, golds: Sequence[object] | object) -> float:
    """1.0 if a normalised gold stands inside the normalised prediction, else 0.0."""
    return _best(
        lambda text, gold: float(bool(normalize(gold)) and normalize(gold) in normalize(text) or _equal(text, gold)),
        prediction,
        golds,
    )


def character_f1(prediction: str | None, golds: Sequence[object] | object) -> float:
    """F1 over words, where each Chinese, Japanese or Korean character is a word of its own.

    Chinese has no spaces, so a whole Chinese answer is one token of `token_f1`, which then is 0 unless it matches
    exactly. On text without such characters this equals `token_f1` but for full-width forms and Unicode punctuation.
    """
    return _best(lambda text, gold: _bag_f1(_cjk_tokens(text), _cjk_tokens(gold)), prediction, golds)


def upstream_last_gold(prediction: str | None, golds: Sequence[object] | object) -> dict[str, float]:
    """`em`, `acc` and `f1` as upstream reports them: those of the last gold (evaluate.py, lines 313-315)."""
    last = gold_list(golds)[-1:]
    contained = not _blank(prediction) and bool(last) and normalize(last[0]) in normalize(prediction)
    return {
        "em": exact_match(prediction, last, as_written=True),
        "acc": float(contained),
        "f1": token_f1(prediction, last, empty_matches=False, as_written=True),
    }


def gold_list(golds: Sequence[object] | object) -> list[object]:
    """Golds as a list, whether the benchmark states one or several."""
    if isinstance(golds, str) or not isinstance(golds, Sequence):
        return [golds]
    return list(golds)


def _best(
    metric: Callable[[str, object], float],
    prediction: str | None,
    golds: Sequence[object] | object,
    as_written: bool = False,
) -> float:
    read = str if as_written else plain
    if _blank(prediction) or _blank(read(prediction)):
        return 0.0
    return max((metric(read(prediction), read(gold)) for gold in gold_list(golds)), default=0.0)


def _blank(prediction: str | None) -> bool:
    return prediction is None or not str(prediction).strip()


def _equal(text: str, gold: object) -> float:
    return float(normalize(text) == normalize(gold))


def _token_f1(text: str, gold: object, closed_answers: bool, empty_matches: bool) -> float:
    left, right = normalize(text), normalize(gold)
    if closed_answers and left != right and (left in CLOSED_ANSWERS or right in CLOSED_ANSWERS):
        return 0.0
    if not left and not right:
        return float(empty_matches)
    return _bag_f1(left.split(), right.split())


def _bag_f1(prediction: list[str], gold: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold)) if shared else 0.0


def _cjk_tokens(text: object) -> list[str]:
    folded = unicodedata.normalize("NFKC", str(text))
    spaced = _CJK.sub(lambda match: f" {match.group()} ", folded)
    bare = "".join(character for character in spaced if not unicodedata.category(character).startswith("P"))
    return normalize(bare).split()
