"""Whether a row of a matrix product does not depend on the other rows on this machine."""

import functools
import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from tir.common.environment import ARITHMETIC

_ROWS = """
import torch
from torch.nn.functional import linear as plain
from tir.common.linear import linear
torch.set_num_threads(1)
weight, rows = torch.randn(192, 384), torch.randn(64, 384)
for product, least in (plain, 4), (linear, 1):
    print(all(product(rows[:count], weight).equal(product(rows, weight)[:count]) for count in range(least, 64)))
"""


@functools.cache
def rows_are_independent(**variables: str) -> tuple[bool, bool]:
    """Compare, bit by bit and in a process with these variables, products with those of 64 rows.

    Returns:
        Whether torch's products of 4 to 63 rows agree, and whether the project's linear layer of 1 to 63 rows does.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ARITHMETIC} | variables
    command = [sys.executable, "-c", _ROWS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300, cwd=ROOT)
    torchs, ours = (line == "True" for line in done.stdout.split())
    return torchs, ours


def need_independent_rows() -> None:
    """Skip the test where MKL has no such mode, for example without AVX2."""
    torchs, _ = rows_are_independent(**ARITHMETIC)
    if not torchs:
        pytest.skip(f"in spite of MKL_CBWR={ARITHMETIC['MKL_CBWR']}, a row depends on the other rows on this processor")
