"""Processes below a process, and sandbox barriers that this kernel lacks."""

import functools
import os
import time
from pathlib import Path

from tir.tools.python_tool import PythonTool


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def parents() -> dict[int, int]:
    """Parent id of every process that is visible in this PID namespace."""
    parent_of = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent_of[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return parent_of


def descendants(pid: int) -> set[int]:
    """All processes below a process, also those in other PID namespaces."""
    parent_of, tree, new = parents(), {pid}, {pid}
    while new:
        new = {child for child, parent in parent_of.items() if parent in tree} - tree
        tree |= new
    return tree - {pid}


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    """Wait until a condition is true; returns whether that happened in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@functools.cache
def sandbox_lacks() -> tuple[str, ...]:
    """Sandbox barriers that this kernel does not provide."""
    with PythonTool(workers=1, minimum_level=0) as tool:
        tool.start()
        return tuple(tool._idle.queue[0].missing)
