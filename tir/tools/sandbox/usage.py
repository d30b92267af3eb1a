"""Disk and thread use of a call without namespaces, checked while it runs.

With namespaces the kernel enforces the limits: /tmp is a file system of 64 MiB, and threads are counted per user
namespace. Without them the kernel has no limit for a single call: RLIMIT_NPROC counts all processes of the user, also
in other containers, and ignores root. So the worker checks, and ends a call that uses too much. The call's error text
is the one that the kernel gives at level 3.
"""

from __future__ import annotations

import errno
import os

from tir.tools.sandbox.call import THREADS
from tir.tools.sandbox.namespaces import TMP_BYTES, TMP_FILES

NO_SPACE = f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
NO_THREAD = "can't start new thread"
_BLOCK_BYTES = 512  # unit of st_blocks on every file system


def excess(process: int, directory: str) -> str:
    """The error text for a running call that uses too much disk or too many threads; "" if it does not.

    Args:
        process: process id of the call.
        directory: the call's only writable directory.
    """
    if _count_threads(process) > THREADS:
        return NO_THREAD
    return "" if _fits(directory) else NO_SPACE


def _count_threads(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/task"))
    except OSError:  # the process has just ended, or /proc is not mounted
        return 0


def _fits(directory: str) -> bool:
    """Whether a directory tree is within TMP_BYTES and TMP_FILES; stops at the first excess. The tree may change."""
    used, entries, directories = 0, 0, [directory]
    while directories:
        try:
            listing = os.scandir(directories.pop())
        except (FileNotFoundError, NotADirectoryError):  # deleted since it was listed
            continue
        except OSError:  # unreadable, or its path is too long: files could be hidden in it
            return False
        with listing:
            for entry in listing:
                try:
                    used += _BLOCK_BYTES * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                except FileNotFoundError:
                    pass
                except OSError:
                    return False
                entries += 1
                if used > TMP_BYTES or entries > TMP_FILES:
                    return False
    return True
