"""One page that says what was run, what was found and what was not, in sentences with numbers.

It is written from other results: the comparisons and averages of Tables 5 and 6, the verdicts on the claims, and the
tables of behaviour and of phi's part. The Snakemake report opens with the same sentences.
"""

from __future__ import annotations

import base64
import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tir.analysis.claims.verdict import FAILS, HOLDS, UNCLEAR, UNMEASURED
from tir.analysis.numbers import fixed, probability, significant
from tir.analysis.statistics import ONE_SEED
from tir.common.records import read_json

RUN, FOUND, NOT_FOUND = "What was run", "What was found", "What was not found"
AVERAGES = {"Avg": "average", "math": "the average over math", "qa": "the average over questions"}


def sections(results: Path, params: Mapping[str, Any], origin: str) -> dict[str, list[str]]:
    """Heading -> sentences.

    Args:
        results: folder with the tables.
        params: tables: names of the accuracy tables; facts: what was run (see `tir.workflow.targets`).
        origin: label of a generated run, or "".
    """
    rows = [row for name in params["tables"] for row in _rows(results / f"{name}_comparisons.csv")]
    # The same pair may be in two tables; its correction over more comparisons is the stricter one.
    rows.sort(key=lambda row: int(row["holm_over"] or 0))
    pairs = {(row["a"], row["b"]): row for row in rows if row["benchmark"] == "Avg"}
    cells = list({(row["a"], row["b"], row["benchmark"]): row for row in rows}.values())
    claims = read_json(results / "claims.json")
    return {
        RUN: _run(params["facts"], origin),
        FOUND: [
            _averages(results, params["tables"]),
            *(_clear(row) for row in cells if row["benchmark"] in AVERAGES and _is_clear(row)),
            *_clear_cells(cells),
            *_of_verdict(claims, HOLDS, "hold"),
            *_of_verdict(claims, FAILS, "do not hold"),
            *_behaviour(results / "behaviour.csv", params["facts"]["seeds"]),
            *_shaping(results / "shaping.csv"),
        ],
        NOT_FOUND: [*_open_pairs(list(pairs.values())), *_open_claims(claims)],
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _run(facts: Mapping[str, Any], origin: str) -> list[str]:
    seeds, benchmarks = facts["seeds"], facts["benchmarks"]
    several = len({each["n"] for each in benchmarks}) > 1
    asked = (
        ", ".join(f"{each['label']} ({each['n']})" for each in benchmarks)
        if several
        else f"{benchmarks[0]['n']} questions of each of {', '.join(each['label'] for each in benchmarks)}"
    )
    training = (
        f"Fine-tuning of {facts['epochs']} epochs, then reinforcement learning of {facts['steps']} steps with "
        f"{facts['prompts']} prompts and {facts['samples']} trajectories for each, in {len(facts['arms'])} arms "
        f"({', '.join(facts['arms'])}), {seeds} seed{'s' if seeds > 1 else ''} each."
    )
    generated = f"This is a run of a {origin}. Its numbers show that every part works, not that a method does."
    times, temperature = facts["decoding"]["samples"], facts["decoding"]["temperature"]
    decoding = f"at temperature {temperature:g}" if temperature else "greedily"
    often = "once" if times == 1 else f"{times} times"
    return [*([generated] if origin else []), training, f"Every checkpoint answered {asked}: each {often}, {decoding}."]


def _averages(results: Path, tables: Sequence[str]) -> str:
    scores, once = {}, []
    for name in tables:
        for row in _rows(results / f"{name}_detail.csv"):
            if row["benchmark"] == "Avg" and row["model"] not in scores:
                score, lo, hi = (_points(row[key]) for key in ("score", "lo", "hi"))
                scores[row["model"]] = f"{row['model']} {score} [{lo}, {hi}]"
                once += [row["model"]] if "one seed" in row["method"] else []
    note = (
        f" One seed of {', '.join(once)}: the interval is over items, and another run may lie outside." if once else ""
    )
    return f"Average scores with 95 % intervals: {'; '.join(scores.values())}.{note}"


def _points(cell: str) -> str:
    return fixed(float(cell), 1)


def _is_clear(row: Mapping[str, str]) -> bool:
    return bool(row["holm_p"]) and float(row["holm_p"]) < 0.05


def _difference(row: Mapping[str, str]) -> str:
    """A difference with its interval: ASPO − GRPO +1.7 points [-0.4, +3.8]."""
    lo, difference, hi = (fixed(float(row[key]), 1, sign=True) for key in ("lo", "difference", "hi"))
    return f"{row['a']} − {row['b']} {difference} points [{lo}, {hi}]"


def _clear(row: Mapping[str, str]) -> str:
    p = probability(float(row["holm_p"]), equals=True)
    return f"On {AVERAGES[row['benchmark']]} {row['verdict']}: {_difference(row)}, p {p} after correction."


def _clear_cells(rows: Sequence[Mapping[str, str]]) -> list[str]:
    clear = [row for row in rows if row["benchmark"] not in AVERAGES and _is_clear(row)]
    if not clear:
        return []
    listed = "; ".join(f"{_difference(row)} on {row['benchmark']}" for row in clear)
    return [f"On single benchmarks: {listed}."]


def _of_verdict(claims: Sequence[Mapping[str, Any]], verdict: str, word: str) -> list[str]:
    some = [f"{claim['says']}: {_measured(claim)}" for claim in claims if claim["verdict"] == verdict]
    return [f"{len(some)} of {len(claims)} claims {word}: {'; '.join(some)}."] if some else []


def _measured(claim: Mapping[str, Any]) -> str:
    """A claim's number with its interval, if it has one: 1.92 [1.53, 2.4]."""
    number, lo, hi = ("" if claim[key] is None else significant(claim[key], 3) for key in ("measured", "lo", "hi"))
    return f"{number} [{lo}, {hi}]" if lo else number


def _behaviour(path: Path, seeds: int) -> list[str]:
    of = f"{'one seed' if seeds == 1 else f'means of {seeds} seeds'} of each arm, without a test"
    rows = [row for row in _rows(path) if row["task"] == "math"]
    sentences = []
    for bigram, action in {"python→answer": "answered", "python→think": "thought again"}.items():
        if rows and bigram in rows[0]:
            rates = ", ".join(f"{row['model']} {row[bigram]}" for row in rows)
            sentences.append(
                f"On math, a model {action} directly after calling Python, per trajectory: {rates} times ({of})."
            )
    return sentences


def _shaping(path: Path) -> list[str]:
    return [
        f"In the training of {row['arm']}, phi was {_percent(row['shift_share'])} of the advantage, and "
        f"{_percent(row['phi_only_share'])} of the advantage came from groups whose rewards were all equal."
        for row in _rows(path)
    ]


def _percent(share: str) -> str:
    return f"{fixed(100 * float(share), 0)} %"


def _open_pairs(rows: Sequence[Mapping[str, str]]) -> list[str]:
    once = [row for row in rows if row["verdict"] == ONE_SEED]
    unclear = [row for row in rows if not _is_clear(row) and row not in once]
    sentences = [
        f"{row['a']} and {row['b']} cannot be told apart on average: {_difference(row)}; a difference of "
        f"{_points(row['mde'])} points would have been found with probability 0.8."
        for row in unclear
    ]
    if once:
        listed = "; ".join(map(_difference, once))
        sentences.append(
            "Nothing follows about the training methods, because each arm has one seed and another run of the same arm "
            f"could differ as much. Over the questions alone: {listed}."
        )
    return sentences


def _open_claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = Counter(claim["verdict"] for claim in claims)
    sentences = []
    if counts[UNCLEAR]:
        sentences.append(f"{counts[UNCLEAR]} of {len(claims)} claims cannot be decided with these questions and seeds.")
    reasons = Counter(claim["why"] for claim in claims if claim["verdict"].startswith(UNMEASURED))
    if reasons:
        listed = "; ".join(f"{why} ({count})" for why, count in reasons.most_common())
        sentences.append(f"{sum(reasons.values())} of {len(claims)} claims were not measured: {listed}.")
    return sentences


def as_html(found: Mapping[str, Sequence[str]], figures: Sequence[Path]) -> str:
    """The sentences and the figures as the body of a page; the figures are inside it."""
    parts = ["<h1>Summary</h1>"]
    for heading, sentences in found.items():
        items = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences)
        parts.append(f"<h2>{heading}</h2>\n<ul>\n{items}</ul>")
    for path in figures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<p><img src="data:image/png;base64,{data}" alt="{path.stem}" style="max-width: 100%"></p>')
    return "\n".join(parts)
