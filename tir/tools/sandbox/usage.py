"""What a call takes of the machine where no namespace bounds it: disk and threads, looked at while it runs.

With namespaces the kernel refuses: /tmp is a file system of 64 MiB, and threads are counted per user namespace. Without
them it has no bound that would hold for one call. RLIMIT_NPROC counts all that this user runs, here and in other
containers, and not at all for root: a call's threads would fail by what others do. So the worker looks, and a call that
is found to have taken more is ended. It gets the words that the kernel has for the same program at level 3.
"""

from __future__ import annotations

import errno
import os

from tir.tools.sandbox.call import THREADS
from tir.tools.sandbox.namespaces import TMP_BYTES, TMP_FILES

NO_SPACE = f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
NO_THREAD = "can't start new thread"
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system


def excess(process: int, directory: str) -> str:
    """What a running call has too much of, as an error's words; "" if nothing.

    Args:
        process: its number.
        directory: the only one it may write.
    """
    if _threads(process) > THREADS:
        return NO_THREAD
    return "" if _fits(directory) else NO_SPACE


def _threads(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/task"))
    except OSError:  # it has just ended, or there is no /proc
        return 0


def _fits(directory: str) -> bool:
    """Whether a tree is within the bounds; it may change meanwhile, and is looked at no further than the bounds."""
    used, entries, waiting = 0, 0, [directory]
    while waiting:
        try:
            listed = os.scandir(waiting.pop())
        except (FileNotFoundError, NotADirectoryError):  # gone by now
            continue
        except OSError:  # shut, or deeper than a path is long: a place to hide files in
            return False
        with listed:
            for entry in listed:
                try:
                    used += _BLOCK_BYTES * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                except FileNotFoundError:
                    pass
                except OSError:
                    return False
                entries += 1
                if used > TMP_BYTES or entries > TMP_FILES:
                    return False
    return True
