"""Where the real inputs lie: beside the repository, or where TIR_SHARED says."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TIR_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real inputs are not at {SHARED} (TIR_SHARED)")
