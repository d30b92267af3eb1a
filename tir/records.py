"""JSON Lines records: append-only while a stage runs, renamed into place when it is complete.

A stage writes `X.jsonl.partial` and renames it to `X.jsonl` at the end, so a finished name always holds a finished
file, and a killed stage finds what it had. The first line of a partial file carries the digest of what produced it;
a partial file of another digest is set aside rather than mixed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tir.errors import DataError


def canonical_json(value: Any) -> str:
    """The one spelling of a value: sorted keys, no spaces. Key order and comments of a YAML file never reach it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    """Short sha256 of a JSON value in its canonical spelling."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_digest(path: str | os.PathLike) -> str:
    """sha256 (hex) of a file's bytes; raises `DataError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed into place, on failure it is removed."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError("cannot write file", where=str(path), why=error.strerror or str(error),
                        remedy="free space or fix permissions, then run the same command again") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; raises `DataError` naming the file and the position of the fault."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None
    except ValueError as error:
        raise DataError("not valid JSON", where=str(path), why=str(error), remedy=f"rm {path}  # then run again") from None


def write_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Write rows as JSON Lines, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """Read JSON Lines; raises `DataError` naming file and line of the first fault."""
    try:
        with open(path, "rb") as file:  # decoded line by line: a text file decodes ahead, and its faults have no line
            return [_json_row(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None


def _json_row(line: bytes, path: str | os.PathLike, number: int) -> dict:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        what, why = "not UTF-8", _other_encoding(line, error)
    except (ValueError, RecursionError) as error:
        what, why = "not valid JSON Lines", str(error)
    else:
        if isinstance(row, dict):
            return row
        what, why = "not a JSON object", f"the line is {line.decode('utf-8').strip()[:80]}"
    raise DataError(what, where=f"{path}:{number}", why=why, remedy=f"rm {path}  # then run again; it is made anew")


_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def _other_encoding(text: bytes, error: UnicodeDecodeError) -> str:
    """What the bytes are instead, where they say so themselves."""
    kind = next((kind for magic, kind in _MAGIC.items() if text.startswith(magic)), None)
    return f"it looks like {kind}" if kind else f"byte {text[error.start]:#04x} at position {error.start + 1} of the line"


class ResumableWriter:
    """Append records to `path.partial`, keyed; finish by renaming to `path`.

    `done` holds the records an earlier, killed run of the *same* work left behind. A torn last line is dropped.

    Args:
        path: the finished file's name.
        work: JSON value naming the work (parameters, input digests); another `work` starts afresh and keeps the
            old partial file as `.partial.stale`.
        key: fields that identify a record.
    """

    def __init__(self, path: str | os.PathLike, *, work: Any, key: tuple[str, ...]):
        self.path, self.key = Path(path), key
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.done: dict[tuple, dict] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"work": digest(work)})
        good = self._recover(header)
        self._file = open(self.partial, "w", encoding="utf-8")
        self._file.write(header + "\n")
        self._file.writelines(line + "\n" for line in good)
        self._file.flush()

    def _recover(self, header: str) -> list[str]:
        if not self.partial.exists():
            return []
        # Not splitlines(): a record may hold U+2028 and its like as they are, and ends at a line feed only.
        lines = self.partial.read_text(encoding="utf-8", errors="replace").split("\n")
        if lines[0] != header:
            os.replace(self.partial, self.partial.with_name(self.partial.name + ".stale"))
            return []
        good = []
        for line in lines[1:]:
            try:
                row = json.loads(line)
            except ValueError:
                break
            self.done[self._key(row)] = row
            good.append(line)
        return good

    def _key(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.key)

    def add(self, row: dict) -> None:
        """Append one record and push it to the operating system."""
        self.done[self._key(row)] = row
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self, order: Iterable[tuple]) -> None:
        """Write the records in `order` under the finished name and drop the partial file."""
        self._file.close()
        write_jsonl(self.path, (self.done[key] for key in order))
        self.partial.unlink()


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of the named distributions; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _image() -> dict[str, str | None] | None:
    """The container image this process runs in, with the checksum its build left beside it; None outside of one."""
    name = os.environ.get("APPTAINER_NAME")
    if not name:
        return None
    build = Path("images", name).with_suffix(".build.json")
    return {"file": name, "sha256": read_json(build)["sha256"] if build.exists() else None}


def write_provenance(result: str | os.PathLike, *, config: Any, code: Iterable[str | os.PathLike] = (),
                     seed: int | None = None, packages: tuple[str, ...] = (), **more: Any) -> None:
    """Write `<result>.provenance.json`: digests of configuration, code and image, versions, seed.

    Args:
        result: the result file described.
        config: the sub-configuration that produced it (a JSON value; never secrets).
        code: local source files that took part.
        packages: distributions whose versions matter.
    """
    sources = sorted(str(path) for path in code)
    write_json(f"{result}.provenance.json", {
        "result": str(result),
        "sha256": file_digest(result),
        "config": config,
        "config_digest": digest(config),
        "code_digest": digest({path: file_digest(path) for path in sources}),
        "image": _image(),
        "versions": versions(*packages),
        "seed": seed,
        **more,
    })
