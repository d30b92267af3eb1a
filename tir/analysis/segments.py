"""The segments of a trace record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tir.common.errors import DataError
from tir.rollout.protocol import Segment


def segments_of(trace: Mapping[str, Any]) -> list[Segment]:
    """The segments of a trace record; raises `DataError` if it has none of the right form."""
    try:
        return [Segment(segment["by"], segment["text"] + "") for segment in trace["segments"]]
    except (KeyError, TypeError):
        place = ", ".join(f"{key} {trace[key]!r}" for key in ("id", "sample", "index", "session") if key in trace)
        found = str(trace.get("segments"))[:80]
        raise DataError(
            "a trajectory without its text", where=place, why=f"segments are not a list of {{by, text}}: {found}"
        ) from None
