"""Text files as they are published: plain or gzip, in UTF-8, UTF-16 or UTF-32; JSON Lines or one JSON list.

A fetch writes UTF-8 without a byte order mark, so that everything after it reads one encoding.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.files import Scratch
from tir.common.records import read_jsonl

_CHUNK = 1 << 20


def to_utf8(path: Path, where: str) -> None:
    """Rewrite a JSON file that is compressed by gzip or in another encoding as plain UTF-8, in place.

    Args:
        path: the file; one that is plain UTF-8 already is not written.
        where: its source, for errors.

    Raises `DataError` if it is damaged.
    """
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    encoding = "utf-8"
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            encoding = json.detect_encoding(file.peek(4)[:4])  # JSON begins with ASCII characters
            if not compressed and encoding == "utf-8":
                return
            with Scratch(f".{path.name}.", path.parent) as scratch:
                with open(scratch / "text", "wb") as target:
                    if encoding == "utf-8":
                        shutil.copyfileobj(file, target, _CHUNK)
                    else:
                        text = io.TextIOWrapper(file, encoding, newline="")
                        shutil.copyfileobj(text, io.TextIOWrapper(target, "utf-8", newline=""), _CHUNK)
                shutil.copyfile(scratch / "text", path)
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeError) as error:
        kind = "gzip" if compressed else encoding
        raise DataError(f"damaged {kind} file", where=where, why=str(error), remedy="get the file again") from None


def read_rows(path: str | os.PathLike) -> list[Any]:
    """The values in a file of JSON Lines or of one JSON list; raises `DataError` with the line of the first error."""
    try:
        with open(path, "rb") as file:
            if file.peek(_CHUNK).lstrip()[:1] != b"[":
                return read_jsonl(path)
            return json.loads(file.read().decode("utf-8"))
    except OSError as error:
        raise DataError("cannot read file", where=str(path), why=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError("not a valid JSON list", where=f"{path}{line}", why=str(error)) from None
