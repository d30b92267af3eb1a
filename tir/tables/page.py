"""A table and its companions as one page for the report, which shows HTML but only downloads CSV."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from tir.tables.layout import Table, shown

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 "DejaVu Sans", Verdana, sans-serif; color: #1a1a1a; margin: 2em; }}
table {{ border-collapse: collapse; border-block: 1.5px solid; margin: .6em 0 1em; font-variant-numeric: tabular-nums; }}
caption, summary {{ text-align: left; font-weight: bold; padding: .4em 0; }}
th {{ border-bottom: 1px solid; text-align: left; vertical-align: bottom; }}
th, td {{ padding: .18em .7em; vertical-align: top; }}
td:first-child {{ min-width: 8em; }}
.number {{ text-align: right; white-space: nowrap; }}
.rule td {{ border-top: 1px solid; }}
p {{ max-width: 62em; margin: .35em 0; color: #444; font-size: 13px; }}
details {{ margin-top: 1em; font-size: 12px; }}
</style>
</head>
<body>
"""


def page(tables: Mapping[str, Table]) -> str:
    """The table "" with its notes, and below it each companion, folded, under the name of its file's suffix."""
    parts = [_HEAD.format(title=escape(tables[""].caption)), _table(tables[""], caption=True)]
    for suffix, table in tables.items():
        if suffix:
            title = f"{escape(table.caption)} ({escape(suffix)}, {len(table.rows)} rows)"
            parts.append(f"<details><summary>{title}</summary>\n{_table(table)}</details>\n")
    return "".join([*parts, "</body>\n</html>\n"])


def _table(table: Table, *, caption: bool = False) -> str:
    numeric = ["" if table.is_text(column) else ' class="number"' for column in range(len(table.columns))]
    lines = ["<table>"]
    if caption:
        lines.append(f"<caption>{escape(table.caption)}</caption>")
    titles = zip(numeric, table.columns, strict=True)
    lines.append("<tr>" + "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in titles) + "</tr>")
    for position, row in enumerate(table.rows):
        cells = (
            f"<td{kind}>{_cell(cell, (position, column) in table.bold)}</td>"
            for column, (kind, cell) in enumerate(zip(numeric, row, strict=True))
        )
        kind = ' class="rule"' if position in table.rule_before else ""
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>", *(f"<p>{escape(note)}</p>" for note in table.notes), ""])


def _cell(cell: Any, bold: bool) -> str:
    text = escape(shown(cell))
    return f"<b>{text}</b>" if bold else text
