"""The paper's service validation (appendix A.5): a few questions, the titles found, the latency of each query."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Sequence

from tir.errors import SearchUnavailable
from tir.records import atomic_path
from tir.retrieval.client import SearchClient

QUESTIONS = (
    "Who was the first president of the United States?",
    "What year did the Eiffel Tower complete construction?",
    "Which physicist formulated the theory of general relativity?",
)


def smoke(endpoint: str, output: str | os.PathLike, *, questions: Sequence[str] = QUESTIONS, top_k: int = 3) -> None:
    """Ask each question once and write a CSV: question, title_1 .. title_k, latency_ms (client side, first call first).

    Raises:
        SearchUnavailable: the server does not answer, or finds nothing for one of the questions.
    """
    client, rows = SearchClient(endpoint, top_k=top_k), []
    for question in questions:
        started = time.perf_counter()
        passages = client.batch_search_sync([question])[0]
        latency_ms = (time.perf_counter() - started) * 1000
        titles = [passage.title for passage in passages]
        rows.append([question, *titles, *[""] * (top_k - len(titles)), f"{latency_ms:.1f}"])
    if unanswered := [row[0] for row in rows if not row[1]]:
        raise SearchUnavailable("retrieval finds nothing", where=endpoint, why=f"no passage for: {' '.join(unanswered)}",
                                remedy="check that the index is the one of this corpus")
    with atomic_path(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["question", *(f"title_{rank}" for rank in range(1, top_k + 1)), "latency_ms"])
        table.writerows(rows)
