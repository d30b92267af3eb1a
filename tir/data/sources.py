"""Fetch one input file from a hub, a URL, a local path or the generated world, and check it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tir.common.errors import ConfigError, DataError, InfrastructureFault
from tir.common.files import Scratch, atomic_path
from tir.common.records import file_digest
from tir.data.archive import extract
from tir.data.formats import is_parquet
from tir.data.hub import hub_file
from tir.data.rows import count_rows
from tir.data.text import to_utf8

_CHUNK = 1 << 20


def fetch_file(name: str, source: dict[str, Any], output: str | os.PathLike) -> None:
    """Copy or download a file, check it, then move it to `output` atomically.

    Args:
        name: name of the input, e.g. `benchmarks/gsm8k.jsonl`; selects the check and appears in errors.
        source: a `tir.config.Source` as JSON.
        output: final path.

    Raises:
        DataError: the file is missing, corrupt, or differs from the source's checksum or row count.
        InfrastructureFault: the hub or the URL did not answer.
        ConfigError: the URL, a proxy or the file of certificates is invalid.
    """
    with atomic_path(output) as temporary:
        member = source.get("member")
        if source["kind"] == "local":
            _copy(source["path"], temporary, f"data source of {name}: path")
        elif source["kind"] == "world":
            _copy(Path("data/world") / name, temporary, "data/world")
        elif source["kind"] == "url" and member:
            with Scratch(f".{Path(output).name}.", temporary.parent) as scratch:
                _download(source["url"], scratch / "archive")
                extract(scratch / "archive", member, temporary, source["url"])
        elif source["kind"] == "url":
            _download(source["url"], temporary)
        elif member:
            extract(hub_file(source, output), member, temporary, f"{source['repo']}: {source['file']}")
        else:
            _copy(hub_file(source, output), temporary, source["repo"])
        check_file(temporary, name, source)


def check_file(path: str | os.PathLike, name: str, source: dict[str, Any]) -> None:
    """Check a file's checksum, its rows and their number, and store it as its reader expects it, text as UTF-8."""
    expected = source.get("sha256")
    if expected:
        actual = file_digest(path)
        if not actual.startswith(expected):
            raise DataError(
                "wrong checksum",
                where=name,
                why=f"expected sha256 {expected[:16]}.., found {actual[:16]}..",
                remedy=f"get the expected file, or accept this one in its source in config.yaml: sha256: {actual}",
            )
    if not is_parquet(Path(path)):
        to_utf8(Path(path), _origin(source))
    rows = count_rows(path, name, _origin(source), source.get("format"))
    if source.get("rows") and rows != source["rows"]:
        raise DataError(
            "wrong number of rows",
            where=name,
            why=f"expected {source['rows']:,}, found {rows:,}",
            remedy=f"get the expected file, or accept this one in its source in config.yaml: rows: {rows}",
        )


def _origin(source: dict[str, Any]) -> str:
    """The source of a file, for errors."""
    if source["kind"] == "hub":
        return f"{source['repo']}: {source['file']}"
    return source.get("path") or source.get("url") or "data/world"


def _copy(source: str | os.PathLike, target: Path, where: str) -> None:
    with open(target, "wb") as file:
        for block in _blocks(source, where):
            file.write(block)


def _blocks(source: str | os.PathLike, where: str) -> Iterator[bytes]:
    """The content of a file, whose faults must not be taken for those of the file that is written."""
    try:
        mode = os.stat(source).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        with open(source, "rb") as file:
            yield from iter(lambda: file.read(_CHUNK), b"")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        what = "no such file" if isinstance(error, FileNotFoundError) else "cannot read file"
        raise DataError(
            what,
            where=where,
            why=f"{source!s}: {getattr(error, 'strerror', None) or error}",
            remedy="correct the path of this source in config.yaml",
        ) from None


@retry(
    retry=retry_if_exception_type(InfrastructureFault),
    stop=stop_after_attempt(4),
    wait=wait_exponential_jitter(initial=1, max=20),
    reraise=True,
)
def _download(url: str, target: Path) -> None:
    import httpx

    from tir.common.http import Unsendable, sending

    try:
        with contextlib.ExitStack() as opened:
            with sending():
                timeout = httpx.Timeout(60, connect=10)
                answer = opened.enter_context(httpx.stream("GET", url, follow_redirects=True, timeout=timeout))
            if answer.status_code in (401, 403, 404, 410):
                raise DataError(
                    "no file at this URL",
                    where=url,
                    why=f"status {answer.status_code}",
                    remedy="correct url of this source in config.yaml",
                )
            answer.raise_for_status()
            with open(target, "wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except Unsendable as error:
        raise ConfigError("cannot download", where=url, why=str(error), remedy=error.remedy) from None
    except httpx.HTTPError as error:
        raise InfrastructureFault(
            "cannot download",
            where=url,
            why=str(error) or type(error).__name__,
            remedy="check the network, or download by hand and use `kind: local` with `path:` in config.yaml",
        ) from error
