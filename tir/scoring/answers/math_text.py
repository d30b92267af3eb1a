r"""The spelling of mathematical answers: marks around a value, Unicode, spaces, separators, brackets. No algebra.

`clean` removes what surrounds a value (a box, dollar signs, Markdown, punctuation) and gives each symbol one LaTeX
spelling; the contents of `\text{}` are put between `TEXT` and `END`. `split` and `enclosed` find the parts of lists,
tuples and relations. `latex` prepares an expression for the LaTeX parser, which needs braces around every argument.
"""

from __future__ import annotations

import re
import unicodedata

from tir.rollout.protocol import last_boxed
from tir.scoring.answers.latex_text import TEXT_COMMANDS, visible
from tir.scoring.answers.math_environments import flattened

# Begin and end of a text, a connective, the product of two vectors. No answer contains them.
TEXT, END, OR, CROSS = "\ue000", "\ue001", "\ue002", "\ue003"

FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc exp log ln lg max min gcd lcm det deg sqrt pi"
).split()
GREEK = "alpha beta gamma delta epsilon theta lambda sigma omega phi psi rho tau".split()
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−–—﹣", "-"),
        **dict.fromkeys("⋅·∙•", r"\cdot "),
        **dict.fromkeys("⟨〈", r"\langle "),
        **dict.fromkeys("⟩〉", r"\rangle "),
        "×": r"\times ",
        "∗": "*",
        "÷": "/",
        "⁄": "/",
        "∕": "/",
        "∞": r"\infty ",
        "°": r"^\circ ",
        "º": r"^\circ ",
        "∠": r"\angle ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∖": r"\setminus ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "≤": r"\le ",
        "⩽": r"\le ",
        "≥": r"\ge ",
        "⩾": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "√": r"\sqrt ",
        "∛": r"\sqrt[3] ",
        "∧": r"\land ",
        "∨": r"\lor ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "ℂ": r"\mathbb{C}",
        "′": "'",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "。": ".",
        "．": ".",
        "，": ",",
        "、": ",",
        "∶": ":",
    }
)
_ONE_NAME = {  # commands that a reader cannot tell apart
    r"\\math(bb|rm|bf|it|cal)\s+([A-Za-z])": r"\\math\1{\2}",
    r"((?:\d\u0305)+)": lambda match: rf"\overline{{{match.group().replace(chr(0x305), '')}}}",
    r"\\(?:left|right)\s*\.": "",
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![A-Za-z])": "",
    r"\\[dtc]frac(?![A-Za-z])": r"\\frac",
    r"\\[dt]binom(?![A-Za-z])": r"\\binom",
    r"\\(?:geq(?:slant)?|geqq)(?![A-Za-z])|>=|=>": r"\\ge ",
    r"\\(?:leq(?:slant)?|leqq)(?![A-Za-z])|<=|=<": r"\\le ",
    r"\\neq(?![A-Za-z])|!=|\\not\s*=": r"\\ne ",
    r"\\lt(?![A-Za-z])": "<",
    r"\\gt(?![A-Za-z])": ">",
    r"\\(?:approx|simeq|doteq|coloneqq|triangleq)(?![A-Za-z])|:=|==": "=",
    r"\\lbrace(?![A-Za-z])": r"\\{",
    r"\\rbrace(?![A-Za-z])": r"\\}",
    r"\\lbrack(?![A-Za-z])": "[",
    r"\\rbrack(?![A-Za-z])": "]",
    r"\\(?:[lr]?vert|mid)(?![A-Za-z])": "|",
    r"\\colon(?![A-Za-z])": ":",
    r"\\ast(?![A-Za-z])": "*",
    r"\\div(?![A-Za-z])": "/",
    r"\\varnothing(?![A-Za-z])": r"\\emptyset ",
    r"\\(?:R|Reals|reals)(?![A-Za-z])|\\math(?:bf|rm)\s*\{R\}": r"\\mathbb{R}",
    r"(?<=\\in)\s*([RZNQ])(?![A-Za-z])": r"\\mathbb{\1}",
    r"\\backslash(?![A-Za-z])": r"\\setminus ",
    r"\+\s*/\s*-": r"\\pm ",
    r"\\mathbb\s*\{R\}\s*(?:\^\s*(?:\+|\{\+\})|_\{\s*>\s*0\s*\})": r"(0,\\infty)",
    r"\\vee(?![A-Za-z])": r"\\lor ",
    r"\\wedge(?![A-Za-z])": r"\\land ",
    r"\\(?:dots|ldots|cdots)(?![A-Za-z])|…": "...",
    r"\^\s*\{?\s*((?:\\prime\s*)+)\}?": lambda match: "'" * match.group(1).count("p"),
    r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])": r"^\\circ ",
    r"(?:,|\{,\})\s*\\!\s*|\{,\}": ",",  # thousands separators; must precede the next rule
    r"(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|~|\\hspace\*?\{[^{}]*\}|\\{1,2}\s*$": " ",
}
_RENAMED = [(re.compile(pattern), name) for pattern, name in _ONE_NAME.items()]
_VECTOR = r"\\(?:vec|mathbf|boldsymbol|bm|overrightarrow)\s*\{[^{}]*\}"
_CROSS = re.compile(rf"({_VECTOR})\s*(?:\\times(?![A-Za-z])|×)(?=\s*{_VECTOR})")
_COMMAND = re.compile(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}]*)\}}")
_MARKED = re.compile(r"([*_`~\"']{1,3})(\S|\S.*\S)\s*\1", re.DOTALL)
_BOLD_INSIDE = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])([^*]+)(?<=[^\s*])\*\*(?![\w(*])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{2})*(?:,\d{3})+(?!\d)")
_BLANK_THOUSANDS = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d])")
_OPEN, _CLOSE = ("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"), (")", "]", "}", r"\}", r"\rangle")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1, "_": 1, r"\overline": 1, r"\bar": 1, r"\vec": 1}


def clean(answer: str) -> str:
    r"""The content of the last box, or the answer, without marks around it and with one spelling of each symbol."""
    boxed = last_boxed(answer)
    value = " ".join(visible(answer if boxed is None else boxed).split())
    value = _dollars(re.sub(r"(?<!\\)\\[()\[\]]", "", value))
    value = _unicode(_CROSS.sub(rf"\1{CROSS}", flattened(value)))
    for pattern, name in _RENAMED:
        value = pattern.sub(name, value)
    count = 1
    while count:  # commands may be nested; the pattern matches the innermost
        value, count = _COMMAND.subn(_text, value)
    return strip(_BOLD_INSIDE.sub(r"\1", " ".join(value.split())))


def strip(value: str) -> str:
    """The value without marks of Markdown, quotes and punctuation around it. `!` stays: `4!` is a factorial."""
    before = None
    while value != before:
        before = value
        value = value.strip().rstrip(".,;:?").strip() if not value.endswith("...") else value.strip()
        value = re.sub(r"^(?:[,;:?]|=(?!=)|#+ )\s*", "", value)
        marked = _MARKED.fullmatch(value)
        if marked and marked.group(1) not in marked.group(2):
            value = marked.group(2)
    return value


def thousands(value: str) -> list[str]:
    """The readings of separators between groups of three digits: as one number, then as a list if that is possible.

    In `1,000, 2,000` a blank shows which commas separate. `100,198` alone has both readings. Within brackets without
    such a blank, as in `(100,198)`, a comma separates.
    """
    value = _BLANK_THOUSANDS.sub(lambda match: match.group().replace(" ", ""), value)
    value = re.sub(r"(?<=\d)[_'](?=\d{3}(?!\d))", "", value)  # Python's 1_000, Swiss 1'000
    merged = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), value)
    if merged == value or re.search(r", ", value):
        return [merged]
    if enclosed(value):
        return [value]
    return [merged, value] if re.fullmatch(r"[\d,+-]+", value) and ",0" not in value else [merged]


def split(value: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts between separators outside all brackets, and the separators found; the longest separator wins."""
    parts, found, depth, start, position = [], [], 0, 0, 0
    ordered = sorted(separators, key=len, reverse=True)
    while position < len(value):
        token = _TOKEN.match(value, position).group()
        depth += (token in _OPEN) - (token in _CLOSE)
        separator = next((each for each in ordered if value.startswith(each, position)), None) if depth == 0 else None
        if separator and separator[0] == "\\" and token != separator:
            separator = None  # \in is not the begin of \infty
        if separator:
            parts.append(value[start:position].strip())
            found.append(separator)
            position = start = position + len(separator)
        else:
            position += len(token)
    return [*parts, value[start:].strip()], found


def enclosed(value: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, content and closing bracket if one pair of brackets encloses the whole value, else None."""
    opening, depth, position = _TOKEN.match(value or " ").group(), 0, 0
    if opening not in _OPEN[:5]:
        return None
    while position < len(value):
        token = _TOKEN.match(value, position).group()
        depth += (token in _OPEN) - (token in _CLOSE)
        position += len(token)
        if depth == 0:
            whole = position == len(value) and token in _CLOSE
            return (opening, value[len(opening) : -len(token)].strip(), token) if whole else None
    return None


def latex(value: str) -> str:
    """An expression as input for the LaTeX parser: named functions, braces around arguments, explicit products."""
    names = "|".join(FUNCTIONS + GREEK)
    value = re.sub(rf"(?<![\\A-Za-z])({names})(?![A-Za-z])", r"\\\1 ", value)
    value = re.sub(r"\\lg(?![A-Za-z])", r"\\log ", value)
    value = re.sub(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty ", value)
    value = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", value)
    value = re.sub(r"([A-Za-z])('+)", lambda match: f"{match.group(1)}_{{p{len(match.group(2))}}}", value)
    # \log_28 is TeX for the logarithm of 8; \log_10 100 is written by people.
    value = re.sub(r"(\\log)\s*_\s*(\d)(?=\d+\s*$)", r"\1_{\2}", value)
    value = re.sub(r"\{?([^{}]*)\\choose([^{}]*)\}?", r"\\binom{\1}{\2}", value)
    value = value.replace("**", "^").replace(r"^\circ", r"\cdot\frac{\pi}{180}")
    value = re.sub(r"\\?%(?!\s*[\w(])", r"\\cdot\\frac{1}{100}", value)
    value = re.sub(r"(?<![\d.,/])(\d+) +(\d+) */ *(\d+)", r"\1\\frac{\2}{\3}", braced(value))
    value = re.sub(r"(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", _mixed, value)
    value = re.sub(r"(?<![\d./])(\d+)\s*/\s*(\d+)(?=\s*(?:[A-Za-z(]|\\pi|\\sqrt))", r"\\frac{\1}{\2}", value)
    return re.sub(r"([\d)])\s*(?=\()", r"\1\\cdot ", value)


def braced(value: str) -> str:
    r"""The value with braces around arguments that TeX takes without: `\frac12`, `\binom 5 2`, `2^\frac12`."""
    tokens, output = _TOKEN.findall(value), []
    while tokens:
        output.append(_with_arguments(tokens))
    return "".join(output)


def _with_arguments(tokens: list[str]) -> str:
    """Take the next token and its arguments from `tokens`."""
    token = tokens.pop(0)
    if token not in _ARGUMENTS:
        return token
    optional = ""
    if token == r"\sqrt":
        while tokens and tokens[0] == " ":
            tokens.pop(0)
        if tokens and tokens[0] == "[" and "]" in tokens:
            end = tokens.index("]") + 1
            optional = "".join(tokens[:end])
            del tokens[:end]
    return token + optional + "".join(f"{{{_argument(tokens, token)}}}" for _ in range(_ARGUMENTS[token]))


def _argument(tokens: list[str], of: str) -> str:
    while tokens and tokens[0] == " ":
        tokens.pop(0)
    if not tokens:
        return ""
    if tokens[0] in ("{", "("):
        opening, closing, depth = tokens[0], {"{": "}", "(": ")"}[tokens[0]], 0
        if opening == "(" and of not in (r"\sqrt", "^"):
            return tokens.pop(0)
        for position, token in enumerate(tokens):
            depth += (token == opening) - (token == closing)
            if depth == 0:
                content = "".join(tokens[1:position])
                del tokens[: position + 1]
                return braced(content)
    if tokens[0] in "+-" and of == "^":
        return tokens.pop(0) + _argument(tokens, of)
    taken = _with_arguments(tokens)
    # People write x^10 and \sqrt12 where TeX would need braces, and \frac12 where it does not.
    digits = taken.isdigit() and of in ("^", r"\sqrt", "_")
    while digits and tokens and tokens[0].isdigit():
        taken += tokens.pop(0)
    return taken


def _mixed(match: re.Match) -> str:
    whole, top, bottom = match.groups()
    proper = int(top) < int(bottom)
    return rf"({whole}+\frac{{{top}}}{{{bottom}}})" if proper else rf"{whole}\cdot\frac{{{top}}}{{{bottom}}}"


def _dollars(value: str) -> str:
    r"""The value without dollar signs of mathematics; a dollar sign before an amount becomes `\$`."""
    plain = len(re.findall(r"(?<!\\)\$", value))
    if plain == 1 or (plain and len(re.findall(r"(?<!\\)\$\s*\d", value)) == plain and not value.endswith("$")):
        return re.sub(r"(?<!\\)\$(?=\s*-?[\d.])", r"\\$", value)
    return re.sub(r"(?<!\\)\$", "", value)


def _unicode(value: str) -> str:
    if value.isascii():
        return value
    characters = []
    for character in value:
        kind, _, base = unicodedata.decomposition(character).partition(" ")
        if kind in ("<super>", "<sub>"):
            base = "".join(chr(int(code, 16)) for code in base.split())
            characters.append(("^" if kind == "<super>" else "_") + "{" + base.replace("−", "-") + "}")
        elif kind == "<fraction>":
            top, _, bottom = unicodedata.normalize("NFKC", character).partition("⁄")
            characters.append(rf"\frac{{{top}}}{{{bottom}}}")
        elif unicodedata.name(character, "").startswith("GREEK SMALL LETTER "):
            characters.append(f"\\{unicodedata.name(character).split()[-1].lower()} ")
        else:
            characters.append(character)
    value = "".join(characters).translate(_SYMBOLS)
    return re.sub(r"\}\^\{|\}_\{(?=\d\}(?:$|\D))", "", unicodedata.normalize("NFKC", value))


def _text(match: re.Match) -> str:
    r"""The content of a text command: as it is if it is mathematics (`\mathbf{12}`), else between TEXT and END."""
    content = match.group(1)
    word = content.strip(" ,.")
    if word.lower() in ("or", "and"):
        return OR if word.lower() == "or" else ","
    unit = word in ("min", "sec", "deg") and re.search(r"[\d})]\s*$", match.string[: match.start()])
    if word in FUNCTIONS and not unit:
        return f"\\{word} "
    if word.lower() == "infinity":
        return word.lower()
    if re.search(r"[\d\\]", word) or not re.search(r"[A-Za-z]{2}", word) and not re.search(r"\(", word):
        return f" {content} " if content != word else content
    return f"{TEXT}{content}{END}"
