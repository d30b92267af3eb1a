r"""Text in LaTeX: text commands, accents, letters and invisible characters, one list for mathematics and QA answers.

`plain(r"\text{Jos\'{e}}")` is `José`. Braces, dollar signs and other punctuation stay; the metrics remove them.
"""

from __future__ import annotations

import re
import unicodedata

# Commands whose argument is shown as it is, perhaps in another font.
TEXT_COMMANDS = (
    r"text(?:rm|sf|tt|bf|md|it|sl|sc|up|normal|superscript|subscript)?|math(?:rm|bf|it|sf|tt|normal)|[mhf]box|emph"
    r"|operatorname\*?|underline|boldsymbol|pmb|bm|textcolor\s*\{[^{}]*\}|color\s*\{[^{}]*\}"
)
_COMMAND = re.compile(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}]*)\}}")
_SWITCH = re.compile(r"\\(?:bf|it|rm|sc|sf|tt|sl|em|bfseries|itshape|scshape|rmfamily|textstyle)(?![A-Za-z])\s*")
_BLANK = re.compile(r"\\[ ,;:!>\\]|\\q?quad(?![A-Za-z])|(?<!\\)~")
_ESCAPED = re.compile(r"\\([&%$#_{}])")
# Accents by their LaTeX command, as the combining character that follows the letter.
_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    '"': "\u0308",
    "~": "\u0303",
    "=": "\u0304",
    ".": "\u0307",
    "u": "\u0306",
    "v": "\u030c",
    "H": "\u030b",
    "r": "\u030a",
    "c": "\u0327",
    "k": "\u0328",
    "d": "\u0323",
    "b": "\u0331",
}
_ACCENT = re.compile(
    r"\\(?:(?P<sign>['`^\"~=.])\s*|(?P<letter>[uvHrckdb])(?:\s+|(?=\{)))(?:\{\s*)?(?P<base>\\[ij](?![A-Za-z])|[^\W\d_])"
    r"(?P<close>\s*\})?"
)
_LETTERS = dict(
    pair.split("=")
    for pair in (
        "i=i j=j ss=ß o=ø O=Ø l=ł L=Ł ae=æ AE=Æ oe=œ OE=Œ aa=å AA=Å dh=ð DH=Ð th=þ TH=Þ dj=đ DJ=Đ dots=... ldots=... "
        "textendash=– textemdash=— textquoteleft=‘ textquoteright=’ textquotesingle='"
    ).split()
)
_LETTER = re.compile(rf"\\({'|'.join(sorted(_LETTERS, key=len, reverse=True))})(?![A-Za-z])(?:\{{\}}|\s+(?=\S)|)")


def visible(text: str) -> str:
    """The text without invisible characters: zero-width blanks and joiners, byte-order and direction marks."""
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def plain(text: object) -> str:
    r"""A text without LaTeX text commands and invisible characters; accents and letters are composed (NFC).

    `~`, `\ `, `\,` and a line break become blanks, `\&` becomes `&`.
    """
    value = visible(str(text))
    if "\\" in value or "~" in value:
        value = _LETTER.sub(lambda match: _LETTERS[match.group(1)], _ACCENT.sub(_accent, value))
        value, count = _SWITCH.sub("", _BLANK.sub(" ", value)), 1
        while count:  # commands may be nested; the pattern matches the innermost
            value, count = _COMMAND.subn(r"\1", value)
        value = _ESCAPED.sub(r"\1", value)
    return unicodedata.normalize("NFC", value)


def _accent(match: re.Match) -> str:
    base, close = match.group("base").removeprefix("\\"), match.group("close") or ""
    opened = "{" in match.group()
    letter = unicodedata.normalize("NFC", base + _ACCENTS[match.group("sign") or match.group("letter")])
    return letter + ("" if opened else close)
