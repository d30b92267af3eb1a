"""A table as data, and its spellings: CSV for programs, Markdown for reading, LaTeX (booktabs) for a paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "→": r"$\rightarrow$",
        "−": "$-$",
        "×": r"$\times$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)
_PAGE_ROWS = 40  # a longer table does not fit on a page


@dataclass
class Table:
    """Columns and rows, ready to print; cells are text, or numbers that print as they are.

    Attributes:
        caption: one sentence, the table's title in print.
        columns: column titles.
        rows: one list of cells per row.
        notes: sentences below the table.
        bold: (row, column) positions to print bold.
        rule_before: rows that a horizontal line precedes (averages).
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    bold: set[tuple[int, int]] = field(default_factory=set)
    rule_before: set[int] = field(default_factory=set)

    def csv(self) -> str:
        """RFC 4180 text with a header and newline line ends."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        """A pipe table with its caption above and its notes below."""
        lines = [
            _pipes(self.columns),
            _pipes("---" if self.is_text(number) else "---:" for number in range(len(self.columns))),
        ]
        for position, row in enumerate(self.rows):
            cells = [shown(cell).replace("|", "\\|") for cell in row]
            lines.append(
                _pipes(f"**{cell}**" if (position, column) in self.bold else cell for column, cell in enumerate(cells))
            )
        return "\n\n".join([f"**{self.caption}**", "\n".join(lines), *self.notes]) + "\n"

    def latex(self) -> str:
        """A booktabs table, shrunk to the line where it is wider; a long one breaks over pages."""
        body = []
        for position, row in enumerate(self.rows):
            cells = [_tex(cell) for cell in row]
            cells = [
                rf"\textbf{{{cell}}}" if (position, column) in self.bold else cell for column, cell in enumerate(cells)
            ]
            body += ([r"\midrule"] if position in self.rule_before else []) + [" & ".join(cells) + r" \\"]
        head = [r"\toprule", " & ".join(map(_tex, self.columns)) + r" \\", r"\midrule"]
        caption = rf"\caption{{{_tex(self.caption)}}}"
        notes = [rf"\par\smallskip {_tex(note)}" for note in self.notes]
        columns = self._alignments()
        if len(self.rows) > _PAGE_ROWS:
            begin = [
                rf"\begin{{longtable}}{{{columns}}}",
                caption + r" \\",
                *head,
                r"\endhead",
                r"\bottomrule",
                r"\endlastfoot",
            ]
            lines = [
                r"{\scriptsize\setlength{\tabcolsep}{3pt}",
                *begin,
                *body,
                r"\end{longtable}",
                r"\noindent",
                *notes,
                "}",
            ]
            return "\n".join(["% needs array, booktabs, longtable", *lines, ""])
        return "\n".join(
            [
                "% needs array, booktabs, graphicx",
                r"\begin{table}[t]",
                r"\centering",
                caption,
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                *head,
                *body,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\begin{minipage}{\linewidth}\footnotesize" if notes else "",
                *notes,
                r"\end{minipage}" if notes else "",
                r"\end{table}",
                "",
            ]
        )

    def _alignments(self) -> str:
        """Numbers flush right, words flush left; longer texts share most of the line, by their length."""
        limit = 26 if len(self.rows) <= _PAGE_ROWS else 13  # characters; a long table cannot be shrunk
        words = [self.is_text(column) for column in range(len(self.columns))]
        longest = [max((len(shown(row[column])) for row in self.rows), default=0) for column in range(len(self.columns))]
        shares = [min(each, 40) if text and each > limit else 0 for text, each in zip(words, longest, strict=True)]
        short = ["l" if text else "r" for text in words]
        return "".join(
            rf">{{\raggedright\arraybackslash}}p{{{0.64 * share / sum(shares):.2f}\linewidth}}" if share else kind
            for kind, share in zip(short, shares, strict=True)
        )

    def is_text(self, column: int) -> bool:
        """Whether a column holds words, to be set flush left."""
        return column == 0 or any(not _is_number(row[column]) for row in self.rows)


def points(fraction: float | None, digits: int = 1) -> str:
    """A fraction as percentage points ("36.7"); empty for None."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f}"


def _tex(cell: Any) -> str:
    """A cell or sentence in LaTeX, numbers with minus signs instead of hyphens."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", shown(cell)).translate(_LATEX)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(cell: Any) -> str:
    """A cell's text; nothing for None."""
    return "" if cell is None else str(cell)


def _is_number(cell: Any) -> bool:
    text = shown(cell).replace(",", "").lstrip("+-−")
    return not text or text.replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).isdigit()
