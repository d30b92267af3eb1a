"""The memory of the sandbox's workers: merged into large pages, and copied before a program writes to it."""

import subprocess
import sys

import pytest

OPEN_OWN = 'open_own = lambda name: open(f"/proc/self/{name}", "rb")'


def test_memory_of_its_own_is_merged_into_large_pages():
    program = OPEN_OWN + """
from tir.tools.sandbox.pages import merge
own = bytearray(2**24)
print(merge(open_own), own.count(0) == 2**24,
      sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages, same, kilobytes = result.stdout.split()
    assert same == "True"
    if pages == "0":
        pytest.skip("this kernel does not merge pages on request (MADV_COLLAPSE, Linux 6.1)")
    assert int(pages) >= 6 and int(kilobytes) >= 6 * 2048


def test_pages_that_a_program_writes_are_copied_before_its_code_comes():
    program = OPEN_OWN + """
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

silent, ready = os.pipe()[0], os.open("/dev/zero", os.O_RDONLY)
ranges, start = written_by(write, open_own), ctypes.addressof(ctypes.c_char.from_buffer(own))
found = [place for place in ranges if start <= place[0] < start + len(own)]
assert found in ([], [(start + number * page, page) for number in range(0, 400, 4)])
gone = [(1 << 40, page)]
print(len(found), faults(silent, []), faults(silent, gone + ranges), faults(ready, ranges))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages, without, ahead, at_once = map(int, result.stdout.split())
    if pages == 0:
        pytest.skip("this kernel does not tell which pages a process shares (/proc/self/pagemap)")
    assert without >= 100 and at_once >= 100
    assert ahead < 50
