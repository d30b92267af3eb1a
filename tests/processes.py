"""What runs below a process, and what this kernel offers, for tests of the sandbox."""

import functools
import os
import time
from pathlib import Path

from tir.tools.python_tool import PythonTool


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def parents() -> dict[int, int]:
    """Parent of every process of the machine, as this PID namespace sees them."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return found


def descendants(pid: int) -> set[int]:
    """All processes below one, whatever PID namespace they are in."""
    tree, below, grew = parents(), {pid}, True
    while grew:
        more = {child for child, parent in tree.items() if parent in below} - below
        grew = bool(more)
        below |= more
    return below - {pid}


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@functools.cache
def sandbox_lacks() -> tuple[str, ...]:
    """Barriers that this kernel refuses."""
    with PythonTool(workers=1, minimum_level=0) as tool:
        tool.start()
        return tuple(tool._idle.queue[0].missing)
