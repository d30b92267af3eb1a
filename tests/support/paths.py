"""Paths of the repository and of Snakemake."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# `make snakemake-versions` sets the variable.
SNAKEMAKE = Path(os.environ.get("TIR_SNAKEMAKE", ROOT / ".venv/workflow/bin/snakemake"))
