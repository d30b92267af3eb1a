"""Directories for what calls write where they have no /tmp of their own, removed whatever a call has made in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile


def remove(directory: str) -> None:
    """Remove a directory and all below it; what this user may not remove stays, without a word.

    `shutil.rmtree` calls itself for every level: code that digs a thousand directories deep ends it with a
    `RecursionError`, and the longest path is no longer one. Here a subdirectory is moved up before it is emptied.
    """
    with contextlib.suppress(OSError):
        os.chmod(directory, 0o700)
        pit, numbers = tempfile.mkdtemp(dir=directory), itertools.count()
        _empty(directory, pit, numbers)
        for number in itertools.count():  # emptying one adds more, later in line
            below = os.path.join(pit, str(number))
            if not os.path.lexists(below):
                break
            _empty(below, pit, numbers)
            os.rmdir(below)
        os.rmdir(pit)
        os.rmdir(directory)


def _empty(directory: str, pit: str, numbers: itertools.count[int]) -> None:
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif entry.path != pit:
                os.chmod(entry.path, 0o700)  # a directory that may not be written to may not be moved either
                os.rename(entry.path, os.path.join(pit, str(next(numbers))))
