"""How retrieved passages become the text of a tool result; one function for training data, rollout and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from tir.retrieval.passage import Passage, join_contents


def render_passages(passages: Sequence[Passage]) -> str:
    """Passages as one string: contents joined by two line breaks, stripped (upstream `evaluation/utils.py:7-37`)."""
    return join_contents(passages)
