"""Landlock (kernel 5.13): a call may read the Python installation and system libraries and write its own directory.

Landlock adds to the mount namespace, and replaces it where the kernel refuses user namespaces. `py_landlock` makes the
system calls and omits access rights that an older kernel does not have. The rules also forbid TCP and signals to other
processes.
"""

from __future__ import annotations

import os

try:
    from py_landlock import AccessFs, Landlock, LandlockError, get_abi_version
except ImportError as error:
    Landlock, _missing = None, str(error)


def probe() -> str:
    """The reason why the kernel does not enforce Landlock, or ""."""
    if Landlock is None:
        return _missing
    try:
        get_abi_version()
    except LandlockError as error:
        return str(error)
    return ""


def build_rules(readable: list[str], devices: list[str], writable: str):
    """The Landlock rules; `.apply()` restricts the calling process irrevocably.

    Args:
        readable: files and directory trees that may be read.
        devices: files that may be read and written.
        writable: directory tree with full access; its path is resolved when the rules are applied.

    Returns:
        A `py_landlock.Landlock`.
    """
    rules = Landlock(strict=False).allow_read_write(writable)
    for path in readable:
        rules.allow_read(path) if os.path.isdir(path) else rules.add_path_rule(path, access=AccessFs.READ_FILE)
    return rules.add_path_rule(*devices, access=AccessFs.READ_FILE | AccessFs.WRITE_FILE)
