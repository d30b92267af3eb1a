"""Write a table and its companions as CSV, Markdown, LaTeX and HTML, through pandas and with provenance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from tir.analysis.tables.layout import Table, shown
from tir.common.records import write_provenance, write_text

_PAGE_ROWS = 40  # a longer table does not fit on a page of paper
_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "→": r"$\rightarrow$", "−": "$-$", "×": r"$\times$"}
)
_FLOAT = r"""% needs array, booktabs, graphicx
\begin{{table}}[t]
\centering
\caption{{{caption}}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
{table}}}\par\raggedright\footnotesize
{notes}
\end{{table}}
"""
_LONG = r"""% needs array, booktabs, longtable
{{\scriptsize\setlength{{\tabcolsep}}{{3pt}}
{table}
\noindent
{notes}
}}
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 "DejaVu Sans", Verdana, sans-serif; color: #1a1a1a; margin: 2em; }}
table {{ border-collapse: collapse; border-block: 1.5px solid; margin: .6em 0 1em; }}
td {{ font-variant-numeric: tabular-nums; }}
caption, summary {{ text-align: left; font-weight: bold; padding: .4em 0; max-width: calc(100vw - 4em); }}
th {{ border-bottom: 1px solid; text-align: left; vertical-align: bottom; }}
th, td {{ padding: .18em .7em; vertical-align: top; }}
td:first-child {{ min-width: 8em; }}
p {{ max-width: 62em; margin: .35em 0; color: #444; font-size: 13px; }}
details {{ margin-top: 1em; font-size: 12px; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_tables(
    tables: Mapping[str, Table],
    output: str | os.PathLike,
    *,
    config: Any,
    seed: int | None = None,
    packages: Iterable[str] = (),
    code: str = "",
) -> list[Path]:
    """Write table "" as CSV to `output`, and as `.md`, `.tex` and `.html` beside it; companions as `_{suffix}.csv`.

    Every file gets a `.provenance.json`. Returns the files written.
    """
    output = Path(output)
    texts = {
        output: to_csv(tables[""]),
        output.with_suffix(".md"): to_markdown(tables[""]),
        output.with_suffix(".tex"): to_latex(tables[""]),
        output.with_suffix(".html"): page(tables),
    }
    texts |= {
        output.with_name(f"{output.stem}_{suffix}.csv"): to_csv(table) for suffix, table in tables.items() if suffix
    }
    for path, text in texts.items():
        write_text(path, text)
        write_provenance(path, config=config, seed=seed, packages=tuple(packages), code=code)
    return list(texts)


def to_csv(table: Table) -> str:
    """RFC 4180 text with a header and newline line ends."""
    frame = pd.DataFrame(table.rows, columns=table.columns, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A pipe table with its caption above and its notes below."""
    style = _styled(table, lambda text: text.replace("|", r"\|"), bold="**{}**")
    titles, *rows = style.to_string(delimiter=" | ").splitlines()
    rule = " | ".join("---" if table.is_text(column) else "---:" for column in range(len(table.columns)))
    lines = [f"| {line} |" for line in (titles, rule, *rows)]
    return "\n\n".join([f"**{table.caption}**", "\n".join(lines), *table.notes]) + "\n"


def to_latex(table: Table) -> str:
    """A booktabs table. A table wider than the line is scaled down; one longer than a page is split over pages."""
    long = len(table.rows) > _PAGE_ROWS
    style = _styled(table, _tex, bold=r"\textbf{{{}}}", rule="\\midrule\n{}")
    caption = _tex(table.caption)
    body = style.to_latex(
        column_format=_alignments(table, longest=13 if long else 26),
        hrules=True,
        environment="longtable" if long else None,
        caption=caption if long else None,
    )
    notes = "\n".join(rf"\par\smallskip {_tex(note)}" for note in table.notes)
    return (_LONG if long else _FLOAT).format(caption=caption, table=body.rstrip(), notes=notes)


def page(tables: Mapping[str, Table]) -> str:
    """An HTML page for the report: table "" with its notes, then each companion in a closed `<details>` element."""
    parts = [_html(tables[""], caption=escape(tables[""].caption))]
    for suffix, table in tables.items():
        if suffix:
            title = f"{escape(table.caption)} ({escape(suffix)}, {len(table.rows)} rows)"
            parts.append(f"<details><summary>{title}</summary>\n{_html(table, suffix)}</details>")
    return html_page(tables[""].caption, "\n".join(parts))


def html_page(title: str, body: str) -> str:
    """A page of the report in the style of all of them; `body` is HTML."""
    return _PAGE.format(title=escape(title), body=body)


def _html(table: Table, name: str = "table", caption: str | None = None) -> str:
    columns, rules = range(len(table.columns)), sorted(table.rule_before)
    numbers = [f".col{column}" for column in columns if not table.is_text(column)]
    styles = [{"selector": each, "props": "text-align: right; white-space: nowrap"} for each in numbers]
    styles += [{"selector": f"td.row{row}", "props": "border-top: 1px solid"} for row in rules]
    html = _styled(table, escape, bold="<b>{}</b>").set_table_styles(styles).to_html(table_uuid=name, caption=caption)
    return html + "".join(f"<p>{escape(note)}</p>\n" for note in table.notes)


def _styled(table: Table, escape_text: Callable[[str], str], *, bold: str, rule: str = "{}") -> Styler:
    """A Styler of the escaped cells.

    Args:
        escape_text: escapes the text of a cell or a title for the output format.
        bold: template of a bold cell.
        rule: template of the first cell of a row with a horizontal line above.
    """
    cells = pd.DataFrame(table.rows, columns=range(len(table.columns)), dtype=object)
    cells = cells.map(lambda cell: escape_text(shown(cell)))
    for position in table.bold:
        cells.iat[position] = bold.format(cells.iat[position])
    for row in table.rule_before:
        cells.iat[row, 0] = rule.format(cells.iat[row, 0])
    titles = [escape_text(title) for title in table.columns]
    return Styler(cells, cell_ids=False).hide(axis="index").format_index(titles.__getitem__, axis=1)


def _tex(text: str) -> str:
    """Text escaped for LaTeX; a hyphen before a number becomes a minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).translate(_LATEX)


def _alignments(table: Table, longest: int) -> str:
    """LaTeX column types: numbers flush right, text flush left.

    Text columns with a cell of more than `longest` characters are wrapped; they share 64 % of the line in proportion to
    their longest cells.
    """
    is_text = [table.is_text(column) for column in range(len(table.columns))]
    lengths = [max((len(shown(row[column])) for row in table.rows), default=0) for column in range(len(is_text))]
    shares = [min(each, 40) if text and each > longest else 0 for text, each in zip(is_text, lengths, strict=True)]
    return "".join(
        rf">{{\raggedright\arraybackslash}}p{{{0.64 * share / sum(shares):.2f}\linewidth}}" if share else "rl"[text]
        for text, share in zip(is_text, shares, strict=True)
    )
