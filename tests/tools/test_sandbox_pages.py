"""The memory of sandbox workers: merging into large pages, and copying pages before a program writes to them."""

import subprocess
import sys

import pytest

OPEN_OWN = 'open_own = lambda name: open(f"/proc/self/{name}", "rb")'


def test_private_memory_is_merged_into_large_pages():
    program = (
        OPEN_OWN
        + """
from tir.tools.sandbox.pages import merge
own = bytearray(2**24)
print(merge(open_own), own.count(0) == 2**24,
      sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")))
"""
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages, same, kilobytes = result.stdout.split()
    assert same == "True"
    if pages == "0":
        pytest.skip("this kernel does not merge pages on request (MADV_COLLAPSE, Linux 6.1)")
    assert int(pages) >= 6 and int(kilobytes) >= 6 * 2048


def test_pages_written_in_rehearsal_are_copied_while_waiting_for_the_program():
    program = (
        OPEN_OWN
        + """
import ctypes, mmap, os, resource
from tir.tools.sandbox.pages import copy_until, written_by
page, own = mmap.PAGESIZE, mmap.mmap(-1, 400 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
own[:] = bytes(range(200)) * (2 * page)

def write():
    for number in range(0, 400, 4):
        own[number * page] = 7

def faults(ready, ranges):
    read, result = os.pipe()
    if os.fork() == 0:
        same = bytes(own)
        copy_until(ready, ranges)
        assert own[:] == same
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        write()
        os.write(result, str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read, 99))

not_ready, ready = os.pipe()[0], os.open("/dev/zero", os.O_RDONLY)
ranges, start = written_by(write, open_own), ctypes.addressof(ctypes.c_char.from_buffer(own))
found = [pages for pages in ranges if start <= pages[0] < start + len(own)]
assert found in ([], [(start + number * page, page) for number in range(0, 400, 4)])
unmapped = [(1 << 40, page)]
print(len(found), faults(not_ready, []), faults(not_ready, unmapped + ranges), faults(ready, ranges))
"""
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages, faults_without_copy, faults_after_copy, faults_if_ready = map(int, result.stdout.split())
    if pages == 0:
        pytest.skip("this kernel does not report which pages a process shares (/proc/self/pagemap)")
    assert faults_without_copy >= 100 and faults_if_ready >= 100
    assert faults_after_copy < 50
