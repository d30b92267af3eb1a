"""Directories for what calls write where they have no /tmp of their own, removed whatever a call has made in them."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress


def remove(directory: str) -> None:
    """Remove a directory and all below it; what this user may not remove stays, without a word, and stops nothing.

    `shutil.rmtree` calls itself for every level: code that digs a thousand directories deep ends it with a
    `RecursionError`, and the longest path is no longer one. Here a subdirectory is moved to the top before it is emptied.
    """
    unused, found = uuid.uuid4().hex, [directory]
    for place in found:  # grows as it is gone through
        with suppress(OSError):
            os.chmod(place, 0o700)  # a directory that may not be written to may be neither emptied nor moved
            for entry in list(os.scandir(place)):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)
                        moved = os.path.join(directory, f"{unused}-{len(found)}")
                        os.rename(entry.path, moved)
                        found.append(moved)
                    else:
                        os.unlink(entry.path)
    for place in reversed(found):
        with suppress(OSError):
            os.rmdir(place)
