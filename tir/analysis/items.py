"""All trajectories of a run as one table: a row per model, benchmark, item and sample (docs/looking.md).

The records are found by their paths, `{folder}/{traces,scores,judge}/{model}/{benchmark}.jsonl`, where the folder is
empty, `sampled`, `n500` or both. A row says in `state` which of its two records exist. What was not measured is null.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tir.analysis.exports import SCORE_KEYS, TRACE_KEYS, golds, unfinished_traces
from tir.analysis.segments import segments_of
from tir.analysis.tables.trajectories import arrow
from tir.analysis.tool_errors import failed_calls
from tir.common.errors import DataError
from tir.common.files import atomic_path
from tir.common.records import read_jsonl
from tir.rollout.protocol import TOOLS, actions
from tir.scoring.metrics import RULE_METRICS
from tir.scoring.score import judgement_index, with_verdicts

_TEXTS = pa.list_(pa.string())
# Name, type and meaning of each column.
COLUMNS = (
    ("folder", pa.string(), "folder of the records: empty (the accuracy tables), `sampled`, `n500`, `n500/sampled`"),
    ("model", pa.string(), "model id"),
    ("arm", pa.string(), "run of reinforcement learning that the model id names; null for other models"),
    ("step", pa.int32(), "step of the arm's checkpoint"),
    ("dpo", pa.int32(), "number of the DPO that followed this step; null without DPO"),
    ("seed", pa.int32(), "seed of the arm's run"),
    ("benchmark", pa.string(), "benchmark"),
    ("task", pa.string(), "math, qa or web"),
    ("item", pa.string(), "id of the item in the benchmark"),
    ("sample", pa.int32(), "number of the trajectory of this item, from 0"),
    ("state", pa.string(), "`scored`, `not scored`, `unfinished` or `no trajectory`, see below"),
    ("correct", pa.bool_(), "whether the answer is right, by the criterion of the task"),
    ("decided_by", pa.string(), "`rules` or `judge`"),
    ("em", pa.float64(), "exact match"),
    ("f1", pa.float64(), "token F1"),
    ("acc", pa.float64(), "substring accuracy"),
    ("char_f1", pa.float64(), "character F1; null for math"),
    ("math_equal", pa.bool_(), "mathematical equality; null for other tasks"),
    ("judge", pa.bool_(), "verdict of the judge; null if the judge was not used or gave none"),
    ("actions", _TEXTS, "actions that the model wrote, in order: think, python, search, answer"),
    ("bigrams", _TEXTS, "pairs of successive actions, such as `think→python`"),
    ("calls", pa.int32(), "tool calls that the model wrote"),
    ("n_python", pa.int32(), "Python calls that were executed"),
    ("n_search", pa.int32(), "searches that were executed"),
    ("tool_errors", pa.int32(), "executed Python calls that ended with an error or at their time limit"),
    ("first_tool_offset", pa.int32(), "characters of model text before the first call; null without a call"),
    ("response_tokens", pa.int32(), "tokens after the prompt, of model and tools"),
    ("model_tokens", pa.int32(), "tokens that the model wrote"),
    ("finish", pa.string(), "`answer`, `length` (token limit) or `budget` (a call beyond the tool budget)"),
    ("seconds", pa.float64(), "wall time of the trajectory"),
    ("answer", pa.string(), "the extracted answer; null if there is none"),
    ("gold", _TEXTS, "accepted answers"),
)
SCHEMA = pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in COLUMNS])


@dataclass
class Collected:
    """Rows of the table, and sentences about what was left out or is incomplete."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(
    root: str | Path,
    selection: Mapping[str, Mapping[str, Iterable[str]]] | None = None,
    *,
    judged: Collection[str] | None = None,
    judge_decides: bool = False,
) -> Collected:
    """Read all records below a folder.

    Args:
        root: the workflow's folder.
        selection: {folder: {model: [benchmark, ...]}} to read; None: all files, also unfinished ones.
        judged: files of verdicts to read, relative to the folder; None: all.
        judge_decides: whether a verdict of the judge determines `correct`.

    Raises `DataError` for a damaged record of a finished file, and for a selected benchmark without any record.
    """
    root, found = Path(root), Collected()
    places = _present(root) if selection is None else _listed(selection)
    for place in places:
        verdicts = _verdicts(root, *place, judged)
        rows = list(_rows(root, *place, verdicts, found.notes, partial=selection is None, judge_decides=judge_decides))
        if not rows and selection is not None:
            raise DataError(
                "no records", where="/".join(filter(None, place)), why="neither trajectories nor scores are there"
            )
        found.rows += rows
    return found


def write(rows: Iterable[Mapping[str, Any]], output: str | Path, origin: str = "") -> None:
    """Write rows as one Parquet file; `origin`, the label of a generated run, goes into its metadata."""
    schema = SCHEMA.with_metadata({"origin": origin}) if origin else SCHEMA
    with atomic_path(output) as temporary:
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")


def arm_of(model: str) -> dict[str, Any]:
    """Arm, step, DPO and seed of a checkpoint's model id; all None for another model."""
    match = re.fullmatch(r"(.+)-step(\d+)(?:-dpo(\d+))?-seed(\d+)", model)
    arm, *numbers = match.groups() if match else [None] * 4
    step, dpo, seed = (each and int(each) for each in numbers)
    return {"arm": arm, "step": step, "dpo": dpo, "seed": seed}


def _listed(selection: Mapping[str, Mapping[str, Iterable[str]]]) -> Iterator[tuple[str, str, str]]:
    for folder, models in selection.items():
        for model, benchmarks in models.items():
            yield from ((folder, model, benchmark) for benchmark in benchmarks)


def _present(root: Path) -> list[tuple[str, str, str]]:
    """(folder, model, benchmark) of all trace and score files, also of unfinished ones."""
    found = set()
    for kind in ("traces", "scores"):
        for depth in ("", "*/", "*/*/"):
            for path in root.glob(f"{depth}{kind}/*/*.jsonl*"):
                folder = path.relative_to(root).parents[2].as_posix().removeprefix(".")
                if folder in ("", "sampled") or re.fullmatch(r"n\d+(/sampled)?", folder):
                    if path.name.endswith((".jsonl", ".jsonl.partial")):
                        found.add((folder, path.parent.name, path.name.partition(".jsonl")[0]))
    return sorted(found)


def _verdicts(root: Path, folder: str, model: str, benchmark: str, judged: Collection[str] | None) -> dict:
    """The judge's verdicts on a model's answers to a benchmark; empty if there are none, or none to be read."""
    path = Path(folder, "judge", model, f"{benchmark}.jsonl")
    asked = judged is None or path.as_posix() in judged
    return (
        judgement_index(read_jsonl(root / path, ("id", "sample", "verdict")))
        if asked and (root / path).exists()
        else {}
    )


def _rows(
    root: Path,
    folder: str,
    model: str,
    benchmark: str,
    verdicts: Mapping,
    notes: list[str],
    *,
    partial: bool,
    judge_decides: bool,
) -> Iterator[dict[str, Any]]:
    traces, scores = (root / folder / kind / model / f"{benchmark}.jsonl" for kind in ("traces", "scores"))
    place = {"folder": folder, "model": model, **arm_of(model), "benchmark": benchmark}
    by_key = {(row["id"], row["sample"]): row for row in _scores(scores, verdicts, judge_decides)}
    finished = traces.exists()
    if finished:
        records = read_jsonl(traces, TRACE_KEYS)
    else:
        records = _unfinished(traces, notes) if partial else []
    unscored = 0
    for record in records:
        score = by_key.pop((record["id"], record["sample"]), None) if finished else None
        state = "scored" if score else "not scored" if finished else "unfinished"
        unscored += state == "not scored"
        yield place | {"state": state} | _identity(record) | _behaviour(record) | _metrics(score)
    if unscored:
        notes.append(f"{unscored} trajectories have no score: {traces}")
    if by_key and records and not finished:
        notes.append(f"{len(by_key)} scores of an earlier run are left out: {scores}")
        return
    if by_key:
        notes.append(f"{len(by_key)} scores have no trajectory: {scores}")
    for score in by_key.values():
        yield place | {"state": "no trajectory"} | _identity(score) | _metrics(score)


def _scores(scores: Path, verdicts: Mapping, decides: bool) -> list[dict]:
    records = read_jsonl(scores, SCORE_KEYS) if scores.exists() else []
    return with_verdicts(records, verdicts, decides=decides) if verdicts else records


def _unfinished(traces: Path, notes: list[str]) -> list[dict]:
    """Whole records of a file that is being written; its first line is no record."""
    partial = traces.with_name(f"{traces.name}.partial")
    if not partial.exists():
        return []
    records, broken = unfinished_traces(partial)
    notes.append(f"{len(records)} trajectories of an unfinished file, {broken} incomplete lines left out: {partial}")
    return records


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"item": str(record["id"]), "sample": record["sample"]}


def _behaviour(trace: Mapping[str, Any]) -> dict[str, Any]:
    segments = segments_of(trace)
    names, offset = actions(segments), trace["first_tool_offset"]
    return {
        "task": trace["task"],
        "actions": names,
        "bigrams": [arrow(pair) for pair in pairwise(names)],
        "calls": sum(name in TOOLS for name in names),
        "n_python": trace["n_python"],
        "n_search": trace["n_search"],
        "tool_errors": failed_calls(segments),
        "first_tool_offset": offset if offset >= 0 else None,
        "response_tokens": trace["usage"].get("response_tokens"),
        "model_tokens": trace["usage"].get("model_tokens"),
        "finish": trace["finish"],
        "seconds": trace["timings"].get("seconds"),
        "answer": trace["answer"],
        "gold": golds(trace),
    }


def _metrics(score: Mapping[str, Any] | None) -> dict[str, Any]:
    if score is None:
        return {}
    judge = score.get("judge")
    return {name: score.get(name) for name in RULE_METRICS} | {
        "correct": None if score["correct"] is None else bool(score["correct"]),
        "decided_by": score.get("decided_by"),
        "judge": judge and judge["verdict"],
    }
