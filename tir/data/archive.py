"""A file out of a zip archive, as large corpora are published."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from tir.errors import DataError

_CHUNK = 1 << 20


def extract(archive: str | os.PathLike, member: str, target: Path, where: str) -> None:
    """Write one file of a zip archive to `target`; its checksum in the archive is compared on the way.

    Args:
        member: its name inside, e.g. `wiki18_100w.jsonl`.
        where: the archive's source, for errors.

    Raises `DataError`: no zip archive, no such member (its files are listed), or damaged.
    """
    if not zipfile.is_zipfile(archive):
        raise DataError("not a zip archive", where=where, why=f"member {member} is to be taken out of it",
                        remedy="member: null   # if it is the file itself")
    try:
        with zipfile.ZipFile(archive) as files:
            names = [name for name in files.namelist() if not name.endswith("/")]
            if member not in names:
                raise DataError("no such file in the archive", where=where, why=f"{member}; it holds {', '.join(names[:10]) or 'nothing'}",
                                remedy=f"member: {names[0]}" if names else "")
            with files.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError("a damaged zip archive", where=where, why=str(error)) from None
