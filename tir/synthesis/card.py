"""The data card of a synthesised corpus, in Markdown: where it comes from, what each step removed, what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tir.rollout.categories import TOOL_CATEGORIES
from tir.rollout.protocol import executed_tools, model_texts, split_output
from tir.synthesis.classify import CATEGORIES, row_category
from tir.synthesis.normalise import QUESTION_RULES, TRAJECTORY_RULES

_BECOMES = {
    "easy": "rows without tools",
    "needs tools": "rows with tools",
    "tools harm": "rows without tools",
    "hard": "an RL prompt",
}


def describe(sft: Sequence[Mapping], rl: Sequence[Mapping]) -> dict[str, Any]:
    """Figures of a corpus: numbers of rows, rows by tool category, lengths in characters, calls per row."""
    outputs = [row["output"] for row in sft]
    kinds = Counter(map(row_category, outputs))
    calls = Counter(sum(executed_tools(split_output(output)).values()) for output in outputs)
    written = [sum(map(len, model_texts(split_output(output)))) for output in outputs]
    return {
        "sft_rows": len(sft),
        "rl_rows": len(rl),
        "categories": {each: kinds[each] for each in TOOL_CATEGORIES},
        "calls": {str(number): calls[number] for number in sorted(calls)},
        "characters": {
            "question": _spread([len(row["input"]) for row in sft]),
            "output": _spread([len(output) for output in outputs]),
            "output without tool results": _spread(written),
        },
    }


def teacher_facts(made_by: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of the teacher, from the file that step 1 writes."""
    teacher, own = made_by["teacher"], made_by["prompts"] == "own"
    source = teacher.get("source", {})
    name = source.get("repo") or source.get("path") or source.get("package") or teacher["model"]
    revision = teacher.get("commit") or teacher.get("revision") or teacher.get("version") or source.get("revision")
    origin = f"revision {revision or 'not stated'}" if source or "sha256" not in teacher else "made by this workflow"
    weights = "".join(f", weights {checksum[:16]}" for checksum in list(teacher.get("sha256", {}).values())[:1])
    return {
        "teacher": f"{name}, {origin}{weights}",
        "prompts": f"version {made_by['version']} of tir/synthesis/prompts.py" if own else "the rows' system prompt",
        "file of questions": f"sha256 {made_by['questions'][:16]}",
    }


def card(facts: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The card.

    Args:
        facts: what was configured, a text by its name.
        report: the report of normalisation, joined with those of `classify` and `describe`, and `mixed_missing`.
    """
    questions, trajectories = report["questions"], report["trajectories"]
    lost = {name: number for name, number in questions.items() if name.startswith("lost: ")}
    removed = [(name, questions.get(name, 0)) for name in QUESTION_RULES]
    parts = [
        "# Data card\n",
        "Fine-tuning rows and RL prompts made by a teacher that ran the tools (docs/synthesis.md).\n",
        _table(("what", "value"), list(facts.items())),
        "## Step 1: questions\n",
        _table(
            ("questions", "number"),
            [("given", questions["given"]), *lost.items(), ("**answered**", questions["given"] - sum(lost.values()))],
        ),
        "## Step 2: what each rule removed\n",
        _table(("rule for questions", "removed"), [*removed, ("**kept**", questions.get("kept", 0))]),
        _found_in(report["found_in"]),
        _table(
            ("rule for trajectories", "removed"),
            [(name, trajectories[name]) for name in TRAJECTORY_RULES]
            + [("**kept**", trajectories.get("kept", 0)), ("of these, format repaired", report["repaired"])],
        ),
        "## Step 3: questions by difficulty\n",
        _difficulty(report),
        "## The corpus\n",
        _table(("file", "rows"), [("sft.json", report["sft_rows"]), ("rl_train.parquet", report["rl_rows"])]),
        _categories(report["categories"]),
        _mixed(report),
        _table(("characters", "median", "95th percentile", "longest"), _lengths(report["characters"])),
        _table(("number of tool calls", "rows"), list(report["calls"].items())),
    ]
    return "\n".join(part for part in parts if part)


def _difficulty(report: Mapping[str, Any]) -> str:
    tasks = list(report["difficulty"])
    rows = [(each, *(report["difficulty"][task][each] for task in tasks), _BECOMES[each]) for each in CATEGORIES]
    words = f"{report['without_row']} questions should have become rows but have no good trajectory of that kind.\n"
    return _table(("questions", *tasks, "become"), rows) + "\n" + words


def _categories(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    rows = [(name, number, f"{100 * number / max(total, 1):.2f}") for name, number in counts.items()]
    return _table(("tools of a row", "count", "percent"), [*rows, ("total", total, "100.00" if total else "0.00")])


def _mixed(report: Mapping[str, Any]) -> str:
    """The paper's structural finding (section 3.2), recomputed."""
    mixed, total = report["categories"]["mixed"], sum(report["categories"].values())
    text = f"{mixed} of {total} rows use both Python and search"
    text += " (the paper finds 0 of 53,971 and calls it a blind spot)." if not mixed else "."
    if report["mixed_missing"]:
        text += (
            f" {report['mixed_missing']} more were asked for, but too few search rows have a whole number as answer."
        )
    return f"{text}\n"


def _found_in(found: Mapping[str, int]) -> str:
    where = ", ".join(f"{file} {number}" for file, number in found.items())
    return f"Removed because they are in: {where}.\n" if where else ""


def _lengths(characters: Mapping[str, Sequence[int]]) -> list[tuple]:
    return [(name, *values) for name, values in characters.items()]


def _spread(lengths: Sequence[int]) -> list[int]:
    """Median, 95th percentile and maximum; zeros if there are none."""
    return [int(value) for value in np.percentile(lengths, (50, 95, 100))] if lengths else [0, 0, 0]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).replace("|", "\\|").split())
