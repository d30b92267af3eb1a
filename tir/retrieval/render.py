"""How retrieved passages become the text of a tool result; one function for training data, rollout and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class HasContents(Protocol):
    """Anything with a passage's text in `contents`."""

    contents: str


def render_passages(passages: Sequence[HasContents]) -> str:
    """Passages as one string: contents joined by two line breaks, stripped (upstream `evaluation/utils.py:7-37`)."""
    return "\n\n".join(passage.contents for passage in passages).strip()
