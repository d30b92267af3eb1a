"""Leakage: which training and validation questions are also in a benchmark, and the composition of each file.

Upstream's validation file contains all 30 AIME24 items, 30 of MATH500, 20 of Bamboogle and one of MuSiQue, and its
first 50 rows are all QA. A checkpoint selected on that file is selected on benchmark items, and by QA alone. Two
questions are equal if their lower-case letters and digits are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir.analysis.numbers import points
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.common.errors import DataError
from tir.data.benchmarks import load_items
from tir.data.text import read_rows
from tir.data.validation import fold, load_parquet

HEAD = 50  # rows of the paper's validation subset


@dataclass(frozen=True)
class Questions:
    """A file's questions, normalised by `fold`, in file order; `kinds`: ability or task, empty if the file has none."""

    name: str
    folded: list[str]
    kinds: list[str]

    @property
    def duplicates(self) -> int:
        return len(self.folded) - len(set(self.folded))

    def composition(self, rows: int | None = None) -> str:
        """The number of rows of each kind, among all or the first `rows`: "math 20, qa 30"."""
        counts = Counter(self.kinds[:rows])
        return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))


def leakage(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Overlap of every training and validation file with every benchmark, and with each other.

    Input `data`: Parquet files of RL, SFT rows (`.json`), benchmark files (`.jsonl`). Params: benchmarks: [{name,
    label, task, n, kept}], where `kept` means that validation rows must not contain its questions; decontaminated: name
    of the Parquet file that must not contain questions of the kept benchmarks, or null.

    Raises `DataError` if that file contains one.
    """
    known = {each["name"]: each for each in params["benchmarks"]}
    files = [_read(Path(path), known) for path in inputs.data]
    benchmarks = [each for each in files if each.name in known]
    others = [each for each in files if each.name not in known]
    if not benchmarks or not others:
        raise DataError(
            "nothing to compare",
            where=f"{name}: data",
            why=f"{len(benchmarks)} benchmark files and {len(others)} training or validation files were given",
            remedy="pass at least one of each with --data",
        )
    rows = [_overlap(each, other, known[other.name]) for each in others for other in benchmarks]
    rows += [_overlap(each, other, {}) for number, each in enumerate(others) for other in others[number + 1 :]]
    clean = params.get("decontaminated")
    kept = {each["label"] for each in known.values() if each["kept"]}
    leaks = [row for row in rows if row[0] == clean and row[1] in kept and row[3]]
    if leaks:
        raise DataError(
            "the validation set overlaps a benchmark",
            where=clean,
            why=f"{leaks[0][3]} questions of {leaks[0][1]} are in it",
            remedy=f"rm data/{clean}.parquet  # then run again with data: {{validation: {{decontaminate: true}}}}",
        )
    overlapping = [row for row in rows if row[3]]
    return {
        "": Table(
            "Questions that two files share",
            ["file", "against", "rows", "overlap", "overlap_in_first_n", "first_n", "percent_of_against"],
            rows,
            notes=[
                f"{len(overlapping)} of {len(rows)} pairs of files share questions.",
                *(f"{each.name}: first {HEAD} rows: {each.composition(HEAD)}." for each in others if each.kinds),
            ],
        ),
        "files": Table(
            "Composition of the files",
            ["file", "rows", "duplicates", "composition", f"composition_of_first_{HEAD}", "head_is_one_sided"],
            [
                [
                    each.name,
                    len(each.folded),
                    each.duplicates,
                    each.composition(),
                    each.composition(HEAD),
                    _one_sided(each),
                ]
                for each in files
            ],
        ),
    }


def _overlap(each: Questions, other: Questions, facts: Mapping[str, Any]) -> list[Any]:
    seen = set(each.folded)
    first = facts.get("n") or len(other.folded)
    shared = sum(question in seen for question in other.folded)
    in_first = sum(question in seen for question in other.folded[:first])
    return [
        each.name,
        facts.get("label", other.name),
        len(each.folded),
        shared,
        in_first,
        min(first, len(other.folded)),
        points(shared / len(other.folded)),
    ]


def _one_sided(each: Questions) -> str:
    """Whether a file of several kinds starts with rows of a single kind, so that its first rows are not a sample."""
    kinds, head = set(each.kinds), set(each.kinds[:HEAD])
    if len(kinds) < 2:
        return ""
    return f"yes: only {head.pop()}" if len(head) == 1 else "no"


def _read(path: Path, known: Mapping[str, Mapping]) -> Questions:
    if path.suffix == ".parquet":
        table = load_parquet(path)
        return Questions(
            path.stem, [fold(each) for each in table["question"]], [str(each) for each in table["ability"]]
        )
    if path.suffix == ".json":
        rows: Sequence[Mapping] = read_rows(path)
        return Questions(path.stem, [fold(row.get("input") or row.get("instruction", "")) for row in rows], [])
    items = load_items(path)
    return Questions(path.stem, [fold(item.question) for item in items], [known[path.stem]["task"]] * len(items))
