"""Results shown in README.md and docs: blocks between two markers, written by `make readme` or by a benchmark.

    <!-- results: table5 sha256:0123456789ab, written by `make readme` -->
    ...
    <!-- end of table5 -->

The first marker contains the digest of the block. A test compares the two, so it finds manual edits without results/.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import indent, wrap

from tir.analysis.numbers import fixed, probability
from tir.common.errors import DataError
from tir.common.records import read_jsonl

_BLOCK = re.compile(
    r"<!-- results: (?P<name>\w+)(?: sha256:(?P<digest>\w+), written by `(?P<command>[\w -]+)`)? -->\n"
    r"(?P<body>.*?)<!-- end of (?P=name) -->\n",
    re.S,
)


def fill(text: str, builders: Mapping[str, Callable[[], str]], command: str = "make readme") -> str:
    """The page with newly generated blocks.

    Args:
        text: the page; a block that was never filled starts with the marker `<!-- results: NAME -->`.
        builders: name of a block -> function that returns its Markdown.
        command: what generates the blocks; it is named in their first markers.

    Raises `DataError` for a block without a builder.
    """

    def block(match: re.Match) -> str:
        name = match["name"]
        if name not in builders:
            raise DataError(
                f"unknown block {name}", where=f"<!-- results: {name} -->", why=f"known: {', '.join(sorted(builders))}"
            )
        body = f"\n{builders[name]().strip()}\n\n"
        return (
            f"<!-- results: {name} sha256:{_digest(body)}, written by `{command}` -->\n{body}<!-- end of {name} -->\n"
        )

    return _BLOCK.sub(block, text)


def faults(text: str, names: Iterable[str]) -> list[str]:
    """One sentence for each block of `names` that is missing from the page or was edited manually."""
    blocks = {match["name"]: match for match in _BLOCK.finditer(text)}
    return [
        f"{name}: its markers are missing"
        if name not in blocks
        else f"{name}: the block was edited after it was generated; run `{blocks[name]['command'] or 'make readme'}`"
        for name in names
        if name not in blocks or blocks[name]["digest"] != _digest(blocks[name]["body"])
    ]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def blocks(directory: Path) -> dict[str, Callable[[], str]]:
    """The functions that build each block from a finished run in `directory` (which has results/ and traces/)."""
    results = directory / "results"
    return {
        "table5": lambda: _notes(results / "table5.md", differences=False),
        "differences": lambda: _notes(results / "table5.md", differences=True),
        "times": lambda: _table(results / "table8.md"),
        "claims": lambda: claims(results / "claims.csv"),
        "math": lambda: trajectory(directory / "traces/sft/gsm8k.jsonl", calls=1),
        "search": lambda: trajectory(directory / "traces/sft/hotpotqa.jsonl", calls=1),
    }


SHOWN = {"accuracy": 1, "forgotten": 1, "python→think": 2}  # outcomes of docs/study.md, and their decimals


def study_blocks(directory: Path) -> dict[str, Callable[[], str]]:
    """The functions that build the blocks of docs/study.md from the folder of a finished `make study`."""
    results = directory / "results/study"
    return {"effects": lambda: effects(results / "effects.csv"), "power": lambda: _table(results / "power.md")}


def effects(path: Path) -> str:
    """The effects of each arm on accuracy, on what was forgotten, and on thinking again after a call of Python."""
    head = ["arm", "outcome", "task", "baseline", "arm's value", "difference", "95 % interval", "p, corrected", "seeds"]
    lines = [f"| {' | '.join([*head, 'items'])} |", f"| --- | --- | --- |{' ---: |' * 7}"]
    for row in csv.DictReader(_text(path).splitlines()):
        if row["outcome"] in SHOWN and row["difference"]:
            digits = SHOWN[row["outcome"]]
            values = [fixed(float(row[key]), digits) for key in ("baseline", "value")]
            difference, low, high = (fixed(float(row[key]), digits, sign=True) for key in ("difference", "lo", "hi"))
            p = row["holm_p"] and probability(float(row["holm_p"]))
            cells = [row["arm"], row["outcome"], row["task"], *values, difference, f"{low} to {high}", p]
            lines.append(f"| {' | '.join(cells)} | {row['seeds']} | {row['items']} |")
    return "\n".join(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        command = "make study" if path.parent.name == "study" else "make demo"
        raise DataError("a result is missing", where=str(path), why="no finished run", remedy=command) from None


def _table(path: Path) -> str:
    """The rows of a Markdown table, without its caption and notes."""
    return "\n".join(line for line in _text(path).splitlines() if line.startswith("|"))


def _notes(path: Path, *, differences: bool) -> str:
    """From an accuracy table: its notes on paired differences as a list, or its rows and its other notes."""
    notes = [line for line in _text(path).splitlines() if line and not line.startswith(("|", "**"))]
    paired = [note for note in notes if re.match(r".+ − .+: [+-]?\d", note)]
    if differences:
        return "\n".join(f"- {note}" for note in paired)
    return "\n\n".join([_table(path), *(note for note in notes if note not in paired)])


def claims(path: Path) -> str:
    """The number of claims with each verdict, and the first claim of each verdict as a table."""
    rows = list(csv.DictReader(_text(path).splitlines()))
    counts = Counter(row["verdict"] for row in rows)
    columns = [each for each in ("claim", "stated", "measured", "interval", "n", "verdict") if each in rows[0]]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for verdict in counts:
        first = next(row for row in rows if row["verdict"] == verdict)
        lines.append(f"| {' | '.join(first[column] for column in columns)} |")
    total = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
    return f"{len(rows)} claims: {total}. The first of each verdict:\n\n" + "\n".join(lines)


def trajectory(path: Path, *, calls: int) -> str:
    """The first trajectory with a correct answer and `calls` tool calls; adds a line break after each thought."""
    if not path.is_file():
        raise DataError("trajectories are missing", where=str(path), why="no finished run", remedy="make demo")
    for record in read_jsonl(path):
        if record["answer"] in record["gold"] and record["n_python"] + record["n_search"] == calls:
            parts = [("question", "\n".join(wrap(record["question"], 64))), ("gold", ", ".join(record["gold"]))]
            parts += [(each["by"], each["text"].replace("</think><", "</think>\n<")) for each in record["segments"]]
            lines = [indent(text, " " * 10).replace(" " * 10, f"{by + ':':<10}", 1) for by, text in parts]
            return "\n".join(["```text", *lines, "```"])
    raise DataError("no trajectory to show", where=str(path), why=f"no correct answer has exactly {calls} tool calls")
