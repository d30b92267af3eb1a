"""The published input files, for tests with real data: in ../shared/data beside the repository, or in $TIR_SHARED."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TIR_SHARED", Path(__file__).resolve().parents[3] / "shared" / "data"))

BENCHMARK_TASKS = {
    "gsm8k": "math",
    "math500": "math",
    "aime24": "math",
    "aime25": "math",
    "hotpotqa": "qa",
    "2wiki": "qa",
    "bamboogle": "qa",
    "musique": "qa",
    "webwalker": "web",
}

BENCHMARK_ROWS = {
    "gsm8k": 1319,
    "math500": 500,
    "aime24": 30,
    "aime25": 30,
    "hotpotqa": 200,
    "2wiki": 200,
    "bamboogle": 125,
    "musique": 200,
    "webwalker": 200,
}

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no input files at {SHARED} (set TIR_SHARED)")
