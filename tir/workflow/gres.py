"""GPUs of a job in Slurm's notation."""

from __future__ import annotations

import re


def parse_gres(text: str | None) -> tuple[str, int]:
    """GPU type and number of `gpu:TYPE:NUMBER` or `gpu:NUMBER` (type "any"); ("", 0) for none."""
    found = re.fullmatch(r"gpu:(?:([\w.-]+):)?(\d+)", text or "")
    return (found[1] or "any", int(found[2])) if found else ("", 0)
