"""The outputs of a finished graph, by job, and what is compared between two runs: every byte but times and paths.

Not compared: times, files that consist of them (`TIMES`), what says at which steps a run was interrupted (`PARTS`), and
paths of the run's own folder and scratch directories.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Folders of a run's results.
RESULTS = "data models index runs traces scores judge sampled synthesis results identity".split()
TIMES = (
    *("*/table8.*", "*/resources.csv*", "*/retrieval_smoke*", "*/wall_clock.jsonl", "*.log", "*/logs/*", "*/alive"),
    "*/.snakemake_timestamp",  # an empty file of Snakemake's
    "*/items.parquet",  # it has the seconds of each trajectory
    *("*/table9.html", "*/table10.html", "*/table13.html"),  # their other forms are compared without the lines of times
)
# The trainer's arguments, with the checkpoint to resume from, and its log; `log.jsonl` is made from it, and compared.
PARTS = ("runs/*/recipe.yaml", "runs/*/checkpoints/trainer_log.jsonl")
_TIME_KEYS = {"seconds", "timings", "tool_seconds", "elapsed", "elapsed_time", "remaining_time"}
_TIME_KEY = re.compile(r"timing|perf/|runtime$|_per_second$")
_TIME_LINE = re.compile(rb"^.*(?:wall-clock of training|(?:samples|steps) per second).*\n", re.MULTILINE)
_SCRATCH = re.compile(rb"/tir-[a-z]+-\w{8}\b")


def jobs(folder: Path) -> dict[str, list[list[str]]]:
    """The outputs of each job of a finished graph by stage, from the records of what each was made from."""
    made: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in sorted((folder / "identity").rglob("*.json")):
        record = json.loads(file.read_text())
        output = str(file.relative_to(folder / "identity")).removesuffix(".json")
        if "job" in record and (folder / output).exists():
            stage = re.search(r"-m scripts\.(?!with_gpus)(\w+)", record["job"]["command"])
            same = json.dumps([record["job"], record["inputs"]], sort_keys=True)
            made[stage[1] if stage else "other", same].append(output)
    found = defaultdict(list)
    for (stage, _), outputs in sorted(made.items()):
        found[stage].append(outputs)
    return dict(found)


def whole(output: str) -> str:
    """What belongs to an output: the folder of a model, an index or a training run, else the file."""
    parts = Path(output).parts
    if parts[:2] == ("runs", "dpo") and parts[3] != "training":  # several jobs write into the folder above
        return output
    if parts[0] == "runs":
        return str(Path(*parts[: 3 if parts[1] == "sft" else 4]))
    return str(Path(output).parent) if parts[-1] == "manifest.json" else output


def contents(folder: Path, paths: Iterable[str], *others: Path) -> dict[str, str]:
    """Digest of each compared file at or below the paths, by path; without times and paths of the run's folder.

    Args:
        folder: the run's folder.
        paths: outputs, relative to it.
        others: folders in which some of the outputs were made before they were copied.
    """
    found, own = {}, re.compile(b"|".join(re.escape(os.fsencode(each)) for each in (folder, *others)))
    for top in sorted(folder / path for path in paths):
        for path in sorted(top.rglob("*")) if top.is_dir() else filter(Path.exists, [top]):
            name = str(path.relative_to(folder))
            if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in (*TIMES, *PARTS)):
                compared = _SCRATCH.sub(b"/SCRATCH", own.sub(b"FOLDER", _compared(path)))
                found[name] = hashlib.sha256(compared).hexdigest()
    return found


def _compared(path: Path) -> bytes:
    if path.suffix in (".csv", ".md", ".tex"):
        return _TIME_LINE.sub(b"", path.read_bytes())
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(each) for each in (text.splitlines() if path.suffix == ".jsonl" else [text])]
    return json.dumps(_without_times(rows, provenance=".provenance." in path.name)).encode()


def _without_times(value: Any, provenance: bool) -> Any:
    """A JSON value without times; a provenance also without the digest of its result, which may contain some."""
    if isinstance(value, list):
        return [_without_times(each, provenance) for each in value]
    if not isinstance(value, Mapping):
        return value
    dropped = _TIME_KEYS | ({"sha256"} if provenance else set())
    return {
        key: _without_times(each, provenance)
        for key, each in value.items()
        if key not in dropped and not _TIME_KEY.search(key)
    }
