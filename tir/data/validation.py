"""The validation rows of RL: a seeded sample, stratified by ability and without benchmark questions.

Upstream's test file is ordered (80 QA rows, then 100 math rows) and contains all 30 AIME24 items, 30 of MATH500, 20
of Bamboogle and one of MuSiQue. Taking its head gives a QA-only set; taking all of it selects on the benchmarks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from tir.data.rl_rows import read_rl_rows
from tir.errors import DataError


def select_validation(rows: pd.DataFrame, benchmark_questions: Iterable[str], *, count: int, select: str,
                      decontaminate: bool, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Choose validation rows.

    Args:
        rows: upstream columns, at least `question` and `ability`.
        benchmark_questions: questions of all benchmarks.
        count: rows wanted; fewer if the file has fewer left.
        select: `stratified` (each ability in its share of what is left) or `head`.
        decontaminate: drop rows whose question stands in a benchmark.
        seed: of the sample.

    Returns:
        The rows in their original order, and a report: given, leaked, kept, and kept by ability.
    """
    known = {fold(question) for question in benchmark_questions}
    leaked = rows["question"].map(fold).isin(known)
    left = rows[~leaked] if decontaminate else rows
    if left.empty:
        raise DataError("no validation rows are left", where="data.validation",
                        why=f"all {len(rows)} stand in a benchmark", remedy="validation: {decontaminate: false}")
    chosen = left.head(count) if select == "head" else _stratified(left, count, seed)
    report = {"given": len(rows), "leaked": int(leaked.sum()), "kept": len(chosen)}
    return chosen, report | {f"kept_{name}": int(n) for name, n in chosen["ability"].value_counts().items()}


def _stratified(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shares = rows["ability"].value_counts(normalize=True).sort_index()
    quota = np.floor(shares * min(count, len(rows))).astype(int)
    # Largest remainders take what flooring left over.
    for name in (shares * min(count, len(rows)) - quota).sort_values(ascending=False).index:
        if quota.sum() < min(count, len(rows)):
            quota[name] += 1
    kept = [index for name in quota.index
            for index in rng.choice(rows.index[rows["ability"] == name], quota[name], replace=False)]
    return rows.loc[sorted(kept)]


def fold(question: str) -> str:
    """A question as compared for overlap: its words, digits and arithmetic signs, lower case; a hyphen is none."""
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])|_", " ", question.lower())
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", text))


def load_parquet(path: str | os.PathLike) -> pd.DataFrame:
    """Read an RL file, its rows numbered from 0; `DataError` as `read_rl_rows`."""
    return pd.DataFrame(read_rl_rows(path))
