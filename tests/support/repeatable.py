"""Whether a row of the project's linear layer does not depend on the other rows on this machine."""

import functools
import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from tir.common.environment import ARITHMETIC

_ROWS = """
import torch
from tir.common.linear import linear
torch.set_num_threads(1)
weight, rows = torch.randn(192, 384), torch.randn(64, 384)
print(all(linear(rows[:count], weight).equal(linear(rows, weight)[:count]) for count in range(1, 64)))
"""


@functools.cache
def rows_are_independent(**variables: str) -> bool:
    """Compare products of 1 to 63 rows with those of 64 rows, bit by bit, in a process with these variables."""
    environment = {name: value for name, value in os.environ.items() if name not in ARITHMETIC} | variables
    done = subprocess.run(
        [sys.executable, "-c", _ROWS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=ROOT,
    )
    return done.stdout.strip() == "True"


def need_independent_rows() -> None:
    """Skip the test where MKL has no such mode, for example without AVX2."""
    if not rows_are_independent(**ARITHMETIC):
        pytest.skip(f"in spite of MKL_CBWR={ARITHMETIC['MKL_CBWR']}, a row depends on the other rows on this processor")
