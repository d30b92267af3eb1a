"""Extract a file from a zip archive; large corpora are published as zip archives."""

from __future__ import annotations

import lzma
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from tir.common.errors import DataError

_CHUNK = 1 << 20


def extract(archive: str | os.PathLike, member: str, target: Path, where: str) -> None:
    """Write one file of a zip archive to `target` and verify its checksum.

    Args:
        archive: path of the archive.
        member: name of the file in the archive, e.g. `wiki18_100w.jsonl`.
        target: path to write to.
        where: source of the archive, for errors.

    Raises `DataError` if it is not a zip archive, lacks the member, is damaged, or cannot be read without a password or
    with Python's methods of compression.
    """
    if not zipfile.is_zipfile(archive):
        raise DataError(
            "not a zip archive",
            where=where,
            why=f"the source names the member {member}, so the file must be a zip archive",
            remedy="member: null   # if the file is not an archive but the data itself",
        )
    try:
        with zipfile.ZipFile(archive) as files:
            names = [name for name in files.namelist() if not name.endswith("/")]
            if member not in names:
                raise DataError(
                    "no such file in the archive",
                    where=where,
                    why=f"{member} is missing; the archive contains {', '.join(names[:10]) or 'no files'}",
                    remedy=f"member: {names[0]}" if names else "",
                )
            # Writing the target fails with an errno, reading damaged bzip2 data without.
            with files.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
    except RuntimeError as error:  # encrypted, or compressed by a method that Python does not have
        raise DataError(
            "cannot extract this zip archive",
            where=where,
            why=str(error),
            remedy="extract it by hand and use `kind: local` with `path:` in config.yaml",
        ) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise DataError(
            "damaged zip archive", where=where, why=str(error), remedy="download the archive again"
        ) from None
