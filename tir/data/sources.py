"""Bring one input to its place: from a hub, an address, a local path or the generated world, and check it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tir.data.archive import extract
from tir.data.hub import hub_file
from tir.data.rows import count_rows
from tir.errors import DataError, InfrastructureFault
from tir.records import atomic_path, file_digest


def fetch_file(name: str, source: dict[str, Any], output: str | os.PathLike) -> None:
    """Copy or download one file to `output`, atomically, and check it before it gets its name.

    Args:
        name: what the file is, for errors, e.g. `benchmarks/gsm8k.jsonl`.
        source: a `tir.config.Source` as JSON.
        output: where it goes.

    Raises:
        DataError: it is missing, corrupt, or not the file that was asked for.
        InfrastructureFault: the hub or the address did not answer.
    """
    with atomic_path(output) as temporary:
        member = source.get("member")
        if source["kind"] == "local":
            _copy(source["path"], temporary, f"data source of {name}: path")
        elif source["kind"] == "world":
            _copy(Path("data/world") / name, temporary, "data/world")
        elif source["kind"] == "url" and member:
            with tempfile.TemporaryDirectory(dir=temporary.parent) as scratch:
                _download(source["url"], Path(scratch) / "archive")
                extract(Path(scratch) / "archive", member, temporary, source["url"])
        elif source["kind"] == "url":
            _download(source["url"], temporary)
        elif member:
            extract(hub_file(source), member, temporary, f"{source['repo']}: {source['file']}")
        else:
            _copy(hub_file(source), temporary, source["repo"])
        check_file(temporary, name, source)


def check_file(path: str | os.PathLike, name: str, source: dict[str, Any]) -> None:
    """Check a file against its source's checksum and row count, and every row as its kind of data needs it."""
    wanted = source.get("sha256")
    if wanted:
        found = file_digest(path)
        if not found.startswith(wanted):
            raise DataError("wrong checksum", where=name, why=f"expected sha256 {wanted[:16]}.., found {found[:16]}..",
                            remedy=f"get the right file, or pin this one in config.yaml: sha256: {found}")
    rows = count_rows(path, name, _origin(source))
    if source.get("rows") and rows != source["rows"]:
        raise DataError("wrong number of rows", where=name, why=f"expected {source['rows']:,}, found {rows:,}",
                        remedy=f"get the right file, or expect what this one has, in its source in config.yaml: rows: {rows}")


def _origin(source: dict[str, Any]) -> str:
    """Where a file comes from, in words."""
    if source["kind"] == "hub":
        return f"{source['repo']}: {source['file']}"
    return source.get("path") or source.get("url") or "data/world"


def _copy(source: str | os.PathLike, target: Path, where: str) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if str(error.filename) != str(source):  # the copy's fault
            raise
        what = "no such file" if isinstance(error, FileNotFoundError) else "cannot read file"
        raise DataError(what, where=where, why=f"{source}: {error.strerror}") from None


@retry(retry=retry_if_exception_type(InfrastructureFault), stop=stop_after_attempt(4),
       wait=wait_exponential_jitter(initial=1, max=20), reraise=True)
def _download(url: str, target: Path) -> None:
    import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=httpx.Timeout(60, connect=10)) as answer:
            if answer.status_code in (401, 403, 404, 410):
                raise DataError("the address has no such file", where=url, why=f"status {answer.status_code}")
            answer.raise_for_status()
            with open(target, "wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except httpx.HTTPError as error:
        raise InfrastructureFault("cannot download", where=url, why=str(error) or type(error).__name__,
                                  remedy="check the network, or fetch the file by hand and name it with kind: local") from error
