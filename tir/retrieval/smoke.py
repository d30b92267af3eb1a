"""The paper's service validation (appendix A.5): a few questions with the titles found and the latency of each."""

from __future__ import annotations

import csv
import os
import time

from tir.common.errors import SearchUnavailable
from tir.common.files import atomic_path
from tir.retrieval.client import SearchClient

QUESTIONS = (
    "Who was the first president of the United States?",
    "What year did the Eiffel Tower complete construction?",
    "Which physicist formulated the theory of general relativity?",
)


def smoke(endpoint: str, output: str | os.PathLike, *, top_k: int = 3) -> None:
    """Send each question once and write a CSV: question, title_1 .. title_k, latency_ms (measured by the client).

    Raises:
        SearchUnavailable: the server does not answer, or finds no passage for a question.
    """
    client, rows = SearchClient(endpoint, top_k=top_k), []
    for question in QUESTIONS:
        started = time.perf_counter()
        passages = client.batch_search_sync([question])[0]
        latency_ms = (time.perf_counter() - started) * 1000
        titles = [passage.title for passage in passages]
        rows.append([question, *titles, *[""] * (top_k - len(titles)), f"{latency_ms:.1f}"])
    if without_passage := [row[0] for row in rows if not row[1]]:
        raise SearchUnavailable(
            "retrieval finds no passages",
            where=endpoint,
            why=f"no passage for: {' '.join(without_passage)}",
            remedy="check that the server's index was built from the intended corpus",
        )
    with atomic_path(output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["question", *(f"title_{rank}" for rank in range(1, top_k + 1)), "latency_ms"])
        table.writerows(rows)
