"""What a fork costs in memory: fewer page tables to copy, and pages copied before they are waited for.

A fork copies the page tables of its parent and its end drops them again. One entry of a large page stands for 512 small
ones, so merging what was preloaded takes about 6 of the 9 ms off an empty fork of a process with 70 MiB.

A page that is still shared is copied when it is first written, and to count references is to write: a short sympy program
writes to some 1,200 pages, which takes two fifths of its time. A rehearsal of common programs, in a process that is
thrown away, tells which, and a child that has to wait for its code has the time to copy them. One whose code comes at
once has not: on a busy machine it would copy pages for a program that may never write to them.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
from array import array
from collections.abc import Callable, Sequence
from typing import BinaryIO

OpenOwn = Callable[[str], BinaryIO]  # opens a file of /proc/self
Range = tuple[int, int]  # first byte, length

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LARGE = 2**21  # of x86-64, and of aarch64 with pages of 4 KiB
_MADV_POPULATE_WRITE, _MADV_COLLAPSE = 23, 25  # include/uapi/asm-generic/mman-common.h, Linux 5.14 and 6.1
_OURS = 1 << 63 | 1 << 56  # of a word of /proc/self/pagemap: present, mapped by no other process
_GAP = 1  # a page between two is copied along: one more system call takes longer
_BETWEEN_LOOKS = 50  # ranges, about half a millisecond
_AT_ONCE_S = 0.005
_WRITABLE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ (\d+) *(.*)$", re.MULTILINE)

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def merge(open_own: OpenOwn) -> int:
    """Merge this process's own memory into large pages, where the kernel can; without, all works as before.

    Returns:
        Large pages made.
    """
    merged = 0
    for start, end in _areas(open_own, of_files=False):
        # One by one: a hole refuses the call, and would refuse it for its neighbours too.
        for address in range(-(-start // _LARGE) * _LARGE, end - _LARGE + 1, _LARGE):
            merged += not _madvise(address, _LARGE, _MADV_COLLAPSE)
    return merged


def written_by(program: Callable[[], object], open_own: OpenOwn) -> list[Range]:
    """Where this process's memory is written to by a fork that runs a program; nowhere if the kernel does not tell."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            areas = _areas(open_own, of_files=True)
            before = _only_ours(areas, open_own)
            program()
            with open(write, "wb") as pipe:
                pipe.write(array("Q", sorted(_only_ours(areas, open_own) - before)))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        pages = array("Q", pipe.read())
    os.waitpid(child, 0)
    runs: list[list[int]] = []
    for page in pages:
        if runs and page - runs[-1][1] <= 1 + _GAP:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    return [(first * _PAGE, (last - first + 1) * _PAGE) for first, last in runs]


def copy_until(ready: int, ranges: Sequence[Range]) -> None:
    """Make pages this process's own now, where the kernel can; without, each is copied when it is written.

    Args:
        ready: a descriptor; as soon as it can be read, the rest is left.
        ranges: from `written_by`, in the process that has forked this one.
    """
    for number, (start, length) in enumerate(ranges):
        if number % _BETWEEN_LOOKS == 0 and select.select([ready], [], [], 0 if number else _AT_ONCE_S)[0]:
            return
        _madvise(start, length, _MADV_POPULATE_WRITE)


def _areas(open_own: OpenOwn, of_files: bool) -> list[tuple[int, int]]:
    """Private writable memory, first byte and end: of the heap and its like, or also what libraries set up."""
    with open_own("maps") as file:
        found = _WRITABLE.findall(file.read())
    return [(int(start, 16), int(end, 16)) for start, end, inode, name in found
            if of_files or inode == b"0" and name in (b"", b"[heap]")]


def _only_ours(areas: Sequence[tuple[int, int]], open_own: OpenOwn) -> set[int]:
    """Numbers of the pages that no other process shares."""
    pages = set()
    with open_own("pagemap") as file:
        for start, end in areas:
            file.seek(start // _PAGE * 8)
            words = array("Q", file.read((end - start) // _PAGE * 8))
            pages.update(start // _PAGE + number for number, word in enumerate(words) if word & _OURS == _OURS)
    return pages
