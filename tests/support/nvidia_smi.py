"""A program `nvidia-smi` that lists GPUs which do not exist."""

import os
from pathlib import Path

UUIDS = ("GPU-a1", "GPU-b2", "GPU-c3", "GPU-d4")


def fake_nvidia_smi(folder: Path, number: int = len(UUIDS)) -> str:
    """Write the program; return a PATH that begins with its folder."""
    rows = "".join(f"{index}, {uuid}\n" for index, uuid in enumerate(UUIDS[:number]))
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = --query-gpu=index,uuid ] || exit 1\ncat <<'END'\n{rows}END\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
