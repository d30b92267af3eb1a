"""The page of a comparison: counts as a table, and the items that changed, compressed, in one file without network.

The trajectories lie in chunks of gzip, written as base64. The browser unpacks a chunk when one of its items is shown.
If the page would be larger than its limit, long texts lose their middle, first those of tools, and the page says so.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tir.analysis.compare.changes import SIDES, Counts, changed, counts, pair_label, paired_models
from tir.analysis.numbers import points, significant
from tir.analysis.tables.inputs import Inputs, is_arm
from tir.analysis.tables.trajectories import criterion

LIMIT = 5_000_000  # bytes of the page
CHUNK_ITEMS = 40
# Longest tool results and longest other texts in characters, tried in this order until the page fits.
CUTS = ((None, None), (2000, None), (1000, None), (500, 4000), (300, 2000), (200, 1000), (100, 400), (60, 150))


def page(inputs: Inputs, params: Mapping[str, Any], origin: str = "", limit: int = LIMIT) -> str:
    """The page as HTML.

    Args:
        inputs: scores and traces of all models.
        params: `names` of both sides, their `models` as two lists of ids, and `benchmarks` [{name, label, task}].
        origin: label of a generated run, or "".
        limit: largest size in bytes.
    """
    names, benchmarks = params["names"], params["benchmarks"]
    pairs = paired_models(*params["models"])
    once = any(is_arm(side) and len(side) == 1 for side in params["models"])
    found = counts(inputs, pairs, [each["name"] for each in benchmarks], once=once)
    items = [
        each | {"benchmark": number}
        for number, benchmark in enumerate(benchmarks)
        for each in changed(inputs, pairs, benchmark["name"])
    ]
    index, chunks, cut = _fitting(items, limit)
    samples = len({row["sample"] for row in inputs.scores(pairs[0][0], benchmarks[0]["name"])})
    index |= {
        "names": names,
        "pairs": pairs,
        "pair_labels": [pair_label(pair) for pair in pairs],
        "benchmarks": [{"name": each["name"], "label": each["label"]} for each in benchmarks],
        "samples": samples,
    }
    sets = [{"model": pairs[0][0], "benchmark": each["name"]} for each in benchmarks]
    notes = [origin and f"These results are from: {origin}.", criterion(inputs, sets)]
    sides = dict(zip((f"{side}_name" for side in SIDES), map(escape, names), strict=True))
    code = {name: _file(f"page.{end}") for name, end in (("style", "css"), ("script", "js"))}
    return Template(_file("page.html")).substitute(
        sides,
        **code,
        **{
            f"{name}_hash": f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
            for name, text in code.items()
        },
        title=f"{escape(names[0])} against {escape(names[1])}",
        notes=_paragraphs([*notes, cut]),
        counts=_counts_table(found, benchmarks, names),
        below=_paragraphs(_test_notes(len(pairs), samples, once)),
        index=json.dumps(index, separators=(",", ":")).replace("<", "\\u003c"),
        chunks="\n".join(chunks),
    )


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _paragraphs(sentences: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(each)}</p>" for each in sentences if each)


def _fitting(items: Sequence[Mapping[str, Any]], limit: int) -> tuple[dict[str, Any], list[str], str]:
    """The index of the items, the chunks as script elements, and a sentence about texts that were shortened."""
    bigrams = sorted({name for each in items for side in each["sides"] for name in side["bigrams"]})
    rows = [
        [
            each["benchmark"],
            each["item"],
            each["sample"],
            each["pair"],
            each["right"],
            sum(bool(side["errors"]) << number for number, side in enumerate(each["sides"])),
            sorted({bigrams.index(name) for side in each["sides"] for name in side["bigrams"]}),
            number // CHUNK_ITEMS,
            number % CHUNK_ITEMS,
        ]
        for number, each in enumerate(items)
    ]
    index = {"rows": rows, "bigrams": bigrams}
    room = limit - len(json.dumps(index)) - 60_000  # for the rest of the page
    for tools, others in CUTS:
        chunks = list(_chunks(items, tools, others))
        if sum(map(len, chunks)) <= room:
            break
    if tools is None:
        return index, chunks, ""
    shortened = f"tool results to {tools} characters" + (f", other texts to {others}" if others else "")
    return index, chunks, f"To keep this page small, long texts are shortened in their middle: {shortened}."


def _chunks(items: Sequence[Mapping[str, Any]], tools: int | None, others: int | None) -> Iterator[str]:
    for start in range(0, len(items), CHUNK_ITEMS):
        texts = [_texts(each, tools, others) for each in items[start : start + CHUNK_ITEMS]]
        packed = gzip.compress(json.dumps(texts, separators=(",", ":")).encode(), 9, mtime=0)
        yield f'<script type="text/plain" id="chunk-{start // CHUNK_ITEMS}">{b64encode(packed).decode()}</script>'


def _texts(item: Mapping[str, Any], tools: int | None, others: int | None) -> dict[str, Any]:
    """What the page shows of an item, with long texts shortened."""
    sides = []
    for side in item["sides"]:
        parts = [[kind, _cut(text, tools if kind in ("result", "error") else others)] for kind, text in side["parts"]]
        answer = side["answer"] and _cut(side["answer"], others)
        sides.append({key: side[key] for key in ("finish", "tokens", "errors")} | {"answer": answer, "parts": parts})
    gold = [_cut(str(each), others) for each in item["gold"]]
    return {"question": _cut(item["question"], others), "gold": gold, "sides": sides}


def _cut(text: str, limit: int | None) -> str:
    """A text without its middle, and the number of characters that were left out."""
    if limit is None or len(text) <= limit + 40:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def _counts_table(found: Sequence[Counts], benchmarks: Sequence[Mapping], names: Sequence[str]) -> str:
    titles = ["benchmark", "right in both", *(f"only in {name}" for name in names), "right in neither"]
    titles += [f"{names[1]} − {names[0]}", "95 % interval", "p", "p (Holm)"]
    rows = []
    for each, benchmark in zip(found, benchmarks, strict=True):
        cells = [str(each.both), str(each.only_a), str(each.only_b), str(each.neither)]
        cells += [points(each.difference, sign=True), f"[{points(each.lo)}, {points(each.hi)}]"]
        cells += ["" if p is None else significant(p, 2) for p in (each.p, each.p_holm)]
        tds = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(benchmark["label"])}</th>{tds}</tr>')
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    return (
        f'<table aria-describedby="counts-unit"><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "</tbody></table>"
    )


def _test_notes(pairs: int, samples: int, once: bool) -> list[str]:
    """What the interval and the p-value say, and what they do not."""
    if once:
        notes = [
            "The interval is over items alone. One side has one training run, and another run of the same arm could "
            "differ as much, so nothing follows about the training methods and there is no p-value."
        ]
    else:
        notes = [
            "The interval and p are those of a paired test of items"
            + (" and training runs" if pairs > 1 else "")
            + "; where few 0/1 answers of one run differ, p lies about between McNemar's exact test and its mid-p "
            "value. p (Holm) is corrected for the number of benchmarks."
        ]
    if samples > 1:
        notes.append(f"Each item has {samples} trajectories; the numbers count all of them, the test counts items.")
    return notes
