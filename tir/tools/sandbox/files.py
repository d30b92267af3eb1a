"""Landlock (kernel 5.13): a call reads the Python installation and system libraries, writes its own directory, no more.

It stands behind the mount namespace, and in its place where user namespaces are refused. `py_landlock` makes the system
calls and leaves out what an older kernel does not know; TCP and signals to others are refused along with files.
"""

from __future__ import annotations

import os

try:
    from py_landlock import AccessFs, Landlock, LandlockError, get_abi_version
except ImportError as error:
    Landlock, _missing = None, str(error)


def probe() -> str:
    """"" if the kernel enforces Landlock, else the reason."""
    if Landlock is None:
        return _missing
    try:
        get_abi_version()
    except LandlockError as error:
        return str(error)
    return ""


def build_rules(readable: list[str], devices: list[str], writable: str):
    """The rules; `.apply()` restricts the calling process for good.

    Args:
        readable: files and directory trees that may be read.
        devices: files that may be read and written.
        writable: directory tree in which everything is allowed; looked up when the rules are applied.

    Returns:
        A `py_landlock.Landlock`.
    """
    rules = Landlock(strict=False).allow_read_write(writable)
    for path in readable:
        rules.allow_read(path) if os.path.isdir(path) else rules.add_path_rule(path, access=AccessFs.READ_FILE)
    return rules.add_path_rule(*devices, access=AccessFs.READ_FILE | AccessFs.WRITE_FILE)
