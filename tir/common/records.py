"""JSON and JSON Lines files, written atomically; digests; provenance."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.files import atomic_path


def canonical_json(value: Any) -> str:
    """Canonical JSON of a value: sorted keys, no spaces. It does not depend on key order or comments of a YAML file."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    """The first `length` hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_digest(path: str | os.PathLike) -> str:
    """sha256 (hex) of a file's bytes; raises `DataError` if it cannot be read."""
    checksum = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 18), b""):
                checksum.update(block)
        return checksum.hexdigest()
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None


def write_text(path: str | os.PathLike, text: str, *, private: bool = False) -> None:
    """Write a text file atomically; `private`: readable by this user only."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, *, private: bool = False) -> None:
    """Write an indented JSON file atomically; `private`: readable by this user only."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", private=private)


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; raises `DataError` with the file and the position of the first error."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            "not valid JSON",
            where=str(path),
            why=str(error),
            remedy=f"mv {path} {path}.damaged  # or correct it",
        ) from None


def write_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Write rows as JSON Lines, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | os.PathLike, keys: Sequence[str] = ()) -> list[dict]:
    """Read JSON Lines; raises `DataError` with the file and line of the first error.

    Args:
        path: the file.
        keys: keys that every row must have.
    """
    try:
        with open(path, "rb") as file:  # binary, so that decoding errors can name the line
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            return [_row(line.removeprefix(codecs.BOM_UTF8), path, number, keys) for number, line in lines]
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None


def _row(line: bytes, path: str | os.PathLike, number: int, keys: Sequence[str]) -> dict:
    try:
        return parse_row(line, keys)
    except ValueError as error:
        remedy = f"sed -n {number}p {path}  # correct this line, or move the file away and run again to recreate it"
        raise DataError(str(error), where=f"{path}:{number}", remedy=remedy) from None


def parse_row(line: bytes, keys: Sequence[str] = ()) -> dict:
    """The JSON object on one line; raises `ValueError` with the reason if there is none or it lacks one of `keys`."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {_other_encoding(line, error)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON Lines: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object: the line is {line.decode('utf-8').strip()[:80]}")
    if missing := [key for key in keys if key not in row]:
        raise ValueError(f"a row lacks a key: it has no {', '.join(missing)}")
    return row


_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_MAGIC |= {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def _other_encoding(text: bytes, error: UnicodeDecodeError) -> str:
    """Description of bytes that are not UTF-8: their file format if the first bytes show it, else the invalid byte."""
    kind = next((kind for magic, kind in _MAGIC.items() if text.startswith(magic)), None)
    return (
        f"it looks like {kind}" if kind else f"byte {text[error.start]:#04x} at position {error.start + 1} of the line"
    )


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python and of the given distributions that are installed."""
    installed = {"python": platform.python_version()}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def _image() -> dict[str, str | None] | None:
    """Name and checksum of the container image of this process; None outside a container."""
    name = os.environ.get("APPTAINER_NAME")
    if not name:
        return None
    build = Path("images", name).with_suffix(".build.json")
    return {"file": name, "sha256": read_json(build)["sha256"] if build.exists() else None}


def write_provenance(
    result: str | os.PathLike,
    *,
    config: Any,
    code: str,
    seed: int | None = None,
    packages: tuple[str, ...] = (),
    **more: Any,
) -> None:
    """Write `<result>.provenance.json`: digests of configuration, code and image, versions, seed.

    Args:
        result: the result file.
        config: the part of the configuration that produced it; a JSON value without secrets.
        code: digest of the code that produced it (`tir.workflow.digests.code_digest`).
        seed: random seed, if any.
        packages: distributions whose versions are recorded.
        more: further entries.
    """
    write_json(
        f"{result}.provenance.json",
        {
            "result": str(result),
            "sha256": file_digest(result),
            "config": config,
            "config_digest": digest(config),
            "code_digest": code,
            "image": _image(),
            "versions": versions(*packages),
            "seed": seed,
            **more,
        },
    )
