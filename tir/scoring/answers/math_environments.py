r"""LaTeX environments of mathematical answers, written as lists, tuples and matrices.

The lines of a system become a list, a piecewise function a list of its pieces `(value, condition)`, and an array in
brackets a matrix.
"""

from __future__ import annotations

import re

_ARRAY = re.compile(
    r"(?:\\left\s*)?([(\[|])\s*\\begin\{array\}\s*\{[lcr\s]*\}(.*?)\\end\{array\}\s*(?:\\right\s*)?[)\]|]", re.DOTALL
)
_CASES = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}", re.DOTALL)
_SYSTEM = re.compile(r"\\(?:begin|end)\{(?:aligned|align\*?|cases|gathered|array)\}(?:\{[^{}]*\})?")
_RELATION = re.compile(r"=|<|>|\\(?:[lg](?:eq?|t)|neq?)(?![A-Za-z])")
_IF = re.compile(r"^(?:\\text\s*\{\s*(?:if|for|when|where)\s*\}|(?:if|for|when|where)(?![A-Za-z]))\s*")


def flattened(value: str) -> str:
    """The value without environments of systems, piecewise functions and arrays."""
    value = _CASES.sub(_pieces, _ARRAY.sub(_matrix, value))
    value = re.sub(r"\{(?:small|B)matrix\}", "{pmatrix}", value)
    if _SYSTEM.search(value):
        value = _SYSTEM.sub("", value).replace("\\\\", ",").replace("&", "")
    return value


def _matrix(match: re.Match) -> str:
    name = "vmatrix" if match[1] == "|" else "pmatrix"
    return rf"\begin{{{name}}}{match[2]}\end{{{name}}}"


def _pieces(match: re.Match) -> str:
    """The pieces of a function; a system, whose `&` stands before a relation, as it is."""
    rows = [[cell.strip() for cell in row.split("&")] for row in match[1].split("\\\\") if row.strip()]
    if not all(len(row) == 2 and row[1] and not _RELATION.match(row[1]) for row in rows):
        return match[0]
    return ", ".join(f"({value.rstrip(', ')}, {_IF.sub('', condition)})" for value, condition in rows)
