"""A retrieved passage, and the text of a tool result with passages.

Contents follow FlashRAG's corpus format: the title in double quotes, a newline, the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """One search result.

    Args:
        id: `id` of the corpus row.
        contents: `"Title"\\ntext`, as in the corpus.
        score: inner product of the embeddings, or the BM25 score; None if the request did not ask for scores.
    """

    id: str
    contents: str
    score: float | None = None

    @property
    def title(self) -> str:
        """The first line without its quotation marks."""
        return self.contents.partition("\n")[0].strip().strip('"')


def render_passages(passages: Sequence[Passage]) -> str:
    """Passages as the text of a `<result>`: contents joined by blank lines, stripped (upstream `evaluation/utils.py`).

    Training data, rollouts and evaluation all use this function.
    """
    return "\n\n".join(passage.contents for passage in passages).strip()
