r"""Question-answering metrics: SQuAD's exact match and token F1, substring accuracy, and an F1 for Chinese text.

Every metric compares one prediction with any number of golds and returns the best value over the golds, in [0, 1]. A
prediction that is None or blank scores 0. The prompt asks for a boxed LaTeX answer, so `\text{Paris}` is read as Paris.
With `as_written` LaTeX is kept, as upstream does: its normalisation turns `\text{Paris}` into textparis.

Source: paper section 4, "Evaluation metrics". Upstream's `evaluation/evaluate/scripts/evaluate.py` computes the same
values but reports those of the *last* gold; `upstream_last_gold` reproduces that.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from tir.scoring.answers.latex_text import plain

CLOSED_ANSWERS = ("yes", "no", "noanswer")

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Han, kana, hangul and the CJK extensions: scripts in which one character is about one word or syllable.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def normalize(text: object) -> str:
    """SQuAD normalisation: lower case, no ASCII punctuation, no English articles, single spaces."""
    unpunctuated = str(text).lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", unpunctuated).split())


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
        closed_answers: if either side is yes, no or noanswer, require equality (HotpotQA's rule, used by the reward).
        empty_matches: two texts that both normalise to "" ("A", "+") match, as in SQuAD 2.0. False as in SQuAD 1.1 and
            upstream, where no prediction matches a gold "A".
        as_written: do not remove LaTeX commands, as upstream.
    """
    return _best(lambda text, gold: _token_f1(text, gold, closed_answers, empty_matches), prediction, golds, as_written)


def substring_accuracy(prediction: str | None, golds: Sequence[object] | object) -> float:
    """1.0 if a normalised gold is a substring of the normalised prediction, else 0.0."""
    return _best(
        lambda text, gold: float(bool(normalize(gold)) and normalize(gold) in normalize(text) or _equal(text, gold)),
        prediction,
        golds,
    )


def character_f1(prediction: str | None, golds: Sequence[object] | object, *, empty_matches: bool = True) -> float:
    """F1 over words, where each Chinese, Japanese or Korean character is a separate word.

    Chinese has no spaces, so a Chinese answer is a single token for `token_f1`, which is then 0 or 1. On text without
    such characters this equals `token_f1`, except for full-width characters and Unicode punctuation. `empty_matches` is
    as in `token_f1`.
    """
    return _best(lambda text, gold: _bag_f1(_cjk_tokens(text), _cjk_tokens(gold), empty_matches), prediction, golds)


def upstream_last_gold(prediction: str | None, golds: Sequence[object] | object) -> dict[str, float]:
    """`em`, `acc` and `f1` against the last gold, which upstream reports (evaluate.py, lines 313-315)."""
    last = gold_list(golds)[-1:]
    contained = not _blank(prediction) and bool(last) and normalize(last[0]) in normalize(prediction)
    return {
        "em": exact_match(prediction, last, as_written=True),
        "acc": float(contained),
        "f1": token_f1(prediction, last, empty_matches=False, as_written=True),
    }


def gold_list(golds: Sequence[object] | object) -> list[object]:
    """The golds as a list; a single gold becomes a list of one."""
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
    return _bag_f1(left.split(), right.split(), empty_matches)


def _bag_f1(prediction: list[str], gold: list[str], empty_matches: bool) -> float:
    if not prediction and not gold:
        return float(empty_matches)
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold)) if shared else 0.0


def _cjk_tokens(text: object) -> list[str]:
    text = unicodedata.normalize("NFKC", str(text))
    text = _CJK.sub(lambda match: f" {match.group()} ", text)
    text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    return normalize(text).split()
