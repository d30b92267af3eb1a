"""What each output was made from: a record per output in `identity/`, written when its job ends, read in each plan.

Snakemake compares a job's settings, code and inputs with its metadata in `.snakemake`. It skips the comparison where
metadata is missing: when a job has a new output, after `--touch`, in results copied from another machine. A result then
passes for one of other settings. It also compares the times of files, which a copy or a download changes. The records
here do not depend on metadata or times:

- the rule's command and the job's parameters; the digest of the code is among the parameters;
- the digests of the inputs' contents;
- the digest of the output's content, so that a record does not fit another file of the same name.

A file's digest is computed again only if its size or modification time changed. Of a folder, the sizes of all files and
the contents of those below 1 MB count. The record of a deleted output stands for it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.records import digest, file_digest, read_json, write_json

FOLDER = Path("identity")
_DIGESTS = FOLDER / "digests.json"  # of files whose time is not the recorded one, e.g. after a copy
_SMALL = 1 << 20  # bytes
_ENTRY = {"stat", "sha256"}  # what is recorded of a file


def entries(paths: Iterable[str]) -> dict[str, Any]:
    """What a job's inputs are, for `write`. Taken before the job runs: it might not read what is written later.

    The digest of an input of many gigabytes is in the record of its own job.
    """
    found = {}
    for path in paths:
        stat, record = _stat(path), _record(path)
        known = record is not None and record["output"]["stat"] == stat
        found[path] = {"stat": stat, "sha256": record["output"]["sha256"] if known else _content(path)}
    return found


def write(job: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Iterable[str]) -> None:
    """Write the record of each output of a job that has ended.

    Args:
        job: what the job does, apart from its inputs: its command and its parameters, as JSON values.
        inputs: `entries` of the job's input files.
        outputs: the job's output files and folders. Snakemake reports those that do not exist.
    """
    for path in filter(os.path.exists, outputs):
        _write(path, job, {"stat": _stat(path), "sha256": _content(path)}, inputs)


class Comparison:
    """Compares outputs with their records. Looks at each file once, so it is of use for one plan."""

    def __init__(self) -> None:
        self._exists, self._stat, self._record = map(cache, (os.path.exists, _stat, _record))
        known = _read(_DIGESTS) or {}
        self._digests = {path: each for path, each in known.items() if isinstance(each, dict) and each.keys() == _ENTRY}
        self._saved = dict(self._digests)

    def known(self, path: str) -> bool:
        """Whether an output exists, or existed and has a record."""
        return self._exists(path) or self._record(path) is not None

    def difference(self, path: str, job: Callable[[], Mapping[str, Any]], inputs: Iterable[str]) -> str | None:
        """Why a known output is not what its job would make now; None if it is.

        Args:
            path: the output. If it has been deleted, its record shows whether what was made of it is still right.
            job: gives what the job does; called only if there is a record.
            inputs: the job's input files.
        """
        record = self._record(path)
        if record is None:
            return "no record of how it was made"
        if self._exists(path) and not self._same(path, record["output"]):
            return "not the file that its job wrote"
        if record["job"] != (now := job()):
            return _changes(record["job"], now)
        if set(inputs) != set(record["inputs"]):
            return "other input files"
        different = next((each for each in sorted(inputs) if not self._same(each, record["inputs"][each])), None)
        if different is None:
            return None
        return f"{different} has changed" if self.known(different) else f"{different} is missing and has no record"

    def accept(self, path: str, job: Mapping[str, Any], inputs: Iterable[str]) -> None:
        """Record a known output as what its job would make now, unless it is unknown what an input was."""
        entries = {each: self._entry(each) for each in (path, *inputs)}
        if all(entries.values()):
            made = entries[path]
            _write(path, job, made, {each: entries[each] for each in inputs})
            self._record.cache_clear()

    def save(self) -> None:
        """Keep the digests that were computed, so that the next plan need not compute them."""
        if self._digests != self._saved:
            _DIGESTS.parent.mkdir(exist_ok=True)
            write_json(_DIGESTS, self._digests)

    def _content(self, path: str) -> str:
        if self._digests.get(path, {}).get("stat") != self._stat(path):
            self._digests[path] = {"stat": self._stat(path), "sha256": _content(path)}
        return self._digests[path]["sha256"]

    def _same(self, path: str, entry: Mapping[str, Any]) -> bool:
        """Whether a file has the recorded content; a deleted output has that of its own record."""
        if not self._exists(path):
            record = self._record(path)
            return record is not None and record["output"]["sha256"] == entry["sha256"]
        return self._stat(path) == entry["stat"] or self._content(path) == entry["sha256"]

    def _entry(self, path: str) -> dict[str, Any] | None:
        if self._exists(path):
            return {"stat": self._stat(path), "sha256": self._content(path)}
        record = self._record(path)
        return record and record["output"]


def _write(path: str, job: Mapping[str, Any], made: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"job": job, "output": made, "inputs": inputs})


def _record(path: str) -> dict[str, Any] | None:
    """The record of an output; None if there is none, or if it is damaged."""
    record = _read(_file(path))
    if not record or not {"job", "output", "inputs"} <= record.keys():
        return None
    inputs = record["inputs"].values() if isinstance(record["inputs"], dict) else [None]
    whole = all(isinstance(each, dict) and each.keys() == _ENTRY for each in (record["output"], *inputs))
    return record if whole and isinstance(record["job"], dict) else None


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is none."""
    try:
        value = read_json(file)
    except DataError:
        return None
    return value if isinstance(value, dict) else None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The values that differ, at most three: `config.rl.learning_rate: 1e-06, now 0.001`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{name}: {_short(old.get(name))}, now {_short(new.get(name))}" for name in names[:3]]
    return "; ".join([*shown, *([f"{len(names) - 3} more"] if len(names) > 3 else [])])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values inside nested mappings; a string with a JSON object counts as that object."""
    if isinstance(value, str) and value[:1] == "{":
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _file(path: str) -> Path:
    return FOLDER / f"{path}.json"


def _stat(path: str) -> list[int]:
    """Number of files, bytes, and the latest modification time in ns."""
    stats = [os.stat(file) for file in _files(path)]
    return [len(stats), sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0)]


def _content(path: str) -> str:
    if os.path.isfile(path):
        return file_digest(path)
    sizes = {file: os.path.getsize(file) for file in _files(path)}
    return digest(
        [[os.path.relpath(file, path), size, size < _SMALL and file_digest(file)] for file, size in sizes.items()], 64
    )


def _files(path: str) -> list[str]:
    """The file itself, or all files of a folder; Snakemake adds `.snakemake_timestamp` to a folder after its job."""
    if not os.path.isdir(path):
        return [path]
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if os.path.basename(file) != ".snakemake_timestamp")
