"""A retrieved passage, and the text that a model reads.

Contents follow FlashRAG's corpus format: the title in double quotes, a newline, the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """One hit.

    Args:
        id: the corpus row's own `id`.
        contents: `"Title"\\ntext`, as in the corpus.
        score: inner product of the embeddings, or the BM25 score; None when the server was not asked for it.
    """

    id: str
    contents: str
    score: float | None = None

    @property
    def title(self) -> str:
        """The first line without its quotation marks."""
        return self.contents.partition("\n")[0].strip().strip('"')


def join_contents(passages: Sequence[Passage]) -> str:
    """The text upstream puts into a `<result>`: contents joined by a blank line, stripped (evaluation/utils.py)."""
    return "\n\n".join(passage.contents for passage in passages).strip()
