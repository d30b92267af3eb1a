"""Selection of RL validation rows: a seeded sample, stratified by ability, without benchmark questions.

Upstream's test file is ordered (80 QA rows, then 100 math rows) and contains all 30 AIME24 items, 30 of MATH500, 20 of
Bamboogle and one of MuSiQue. Its first rows are QA only; using all rows would select checkpoints on the benchmarks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from tir.common.errors import DataError
from tir.data.rl_rows import read_rl_rows


def select_validation(
    rows: pd.DataFrame, benchmark_questions: Iterable[str], *, count: int, select: str, decontaminate: bool, seed: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Choose validation rows.

    Args:
        rows: upstream columns, at least `question` and `ability`.
        benchmark_questions: questions of all benchmarks.
        count: number of rows to select; all remaining rows if there are fewer.
        select: `stratified` (abilities in the proportions of the remaining rows) or `head` (first rows).
        decontaminate: drop rows whose question is in a benchmark.
        seed: random seed of the sample.

    Returns:
        The selected rows in their original order, and a report with the numbers of given, leaked and kept rows, and of
        kept rows per ability.
    """
    known = {fold(question) for question in benchmark_questions}
    leaked = rows["question"].map(fold).isin(known)
    candidates = rows[~leaked] if decontaminate else rows
    if candidates.empty:
        raise DataError(
            "no validation rows are left",
            where="data.validation",
            why=f"the questions of all {len(rows)} rows are in a benchmark",
            remedy="data: {validation: {decontaminate: false}}  # validation then scores questions of the benchmarks",
        )
    chosen = candidates.head(count) if select == "head" else _stratified(candidates, count, seed)
    report = {"given": len(rows), "leaked": int(leaked.sum()), "kept": len(chosen)}
    return chosen, report | {f"kept_{name}": int(n) for name, n in chosen["ability"].value_counts().items()}


def _stratified(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shares = rows["ability"].value_counts(normalize=True).sort_index()
    quota = np.floor(shares * min(count, len(rows))).astype(int)
    # Distribute the rows lost by rounding down to the largest remainders.
    for name in (shares * min(count, len(rows)) - quota).sort_values(ascending=False).index:
        if quota.sum() < min(count, len(rows)):
            quota[name] += 1
    kept = [
        index
        for name in quota.index
        for index in rng.choice(rows.index[rows["ability"] == name], quota[name], replace=False)
    ]
    return rows.loc[sorted(kept)]


def fold(question: str) -> str:
    """Normalise a question for comparison: lower-case words, digits and arithmetic signs; hyphens become spaces."""
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])|_", " ", question.lower())
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", text))


def load_parquet(path: str | os.PathLike) -> pd.DataFrame:
    """Read an RL file with `read_rl_rows` into a data frame whose rows are numbered from 0."""
    return pd.DataFrame(read_rl_rows(path))
