"""Step 2: remove what a corpus must not contain, and count what each rule removes.

Rules for questions, in this order: not answered by the teacher; a question of a benchmark or of the RL validation file;
nearly one of these; the same as an earlier question; nearly an earlier question. Rules for the trajectories of the
questions that stay: a call where no tool is allowed; unfinished; wrong; no call where one is allowed; too many calls; a
call that did not run; a repeated call; a format that cannot be repaired; the same text twice. The first rule that
applies counts.

The numbers of right samples, which the next step compares, are counted before the rules for trajectories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tir.data.validation import fold
from tir.rollout.protocol import Segment, model_texts, tool_call
from tir.scoring.score import score_traces
from tir.synthesis.near import NearDuplicates
from tir.synthesis.repair import repaired

if TYPE_CHECKING:
    from tir.config.synthesis import Normalisation

LEAKED, NEARLY_LEAKED, DUPLICATE, NEAR_DUPLICATE = QUESTION_RULES = (
    "in a benchmark or validation file",
    "nearly in one",
    "duplicate",
    "near duplicate",
)
TRAJECTORY_RULES = (
    "call where none is allowed",
    "unfinished",
    "wrong answer",
    "no call where one is allowed",
    "too many calls",
    "call that did not run",
    "repeated call",
    "format",
    "same text",
)


def normalise(
    records: Sequence[Mapping[str, Any]], known: Mapping[str, Iterable[str]], rules: Normalisation
) -> tuple[list[dict], dict]:
    """Questions with their good trajectories, and a report of what was removed.

    Args:
        records: records of `tir.synthesis.sampling.sample_questions`.
        known: questions of each benchmark and validation file, by its name.
        rules: the section `synthesis.normalisation`.

    Returns:
        Rows `{id, task, question, gold, source, direct, tools, trajectories}`: `direct` and `tools` are
        `{samples, right}`, a trajectory is `{kind, number, calls, output}` with its flat text. And the report:
        `questions` and `trajectories` by outcome, `repaired`, `found_in` by file.
    """
    kept, report = _questions(records, known, rules)
    right = _right(kept, rules)
    counts: Counter[str] = Counter(dict.fromkeys(TRAJECTORY_RULES, 0))
    rows = []
    for record in kept:
        samples = record["samples"]
        verdicts = [right[record["id"], each["kind"], each["number"]] for each in samples]
        trajectories: dict[str, dict] = {}
        for sample, verdict in zip(samples, verdicts, strict=True):
            fault, trajectory = _trajectory(sample, verdict, rules)
            fault = "same text" if not fault and trajectory["output"] in trajectories else fault
            counts[fault or "kept"] += 1
            if not fault:
                trajectories[trajectory["output"]] = trajectory
                counts["repaired"] += trajectory.pop("repaired")
        rows.append(
            {name: record[name] for name in ("id", "task", "question", "gold", "source")}
            | {kind: _compared(kind, samples, verdicts) for kind in ("direct", "tools")}
            | {"trajectories": list(trajectories.values())}
        )
    report |= {"repaired": counts.pop("repaired", 0), "trajectories": {"sampled": counts.total(), **counts}}
    return rows, report


def _questions(
    records: Sequence[Mapping[str, Any]], known: Mapping[str, Iterable[str]], rules: Normalisation
) -> tuple[list[Mapping[str, Any]], dict]:
    outcomes: Counter[str] = Counter(given=len(records), **dict.fromkeys(QUESTION_RULES, 0))
    leaked = {fold(question): file for file, each in known.items() for question in each} if rules.decontaminate else {}
    found_in: Counter[str] = Counter()
    near = NearDuplicates(rules.near_duplicates) if rules.near_duplicates else None
    if near:
        for question, file in leaked.items():
            near.add(question, file)
    seen: set[str] = set()
    kept = []
    for record in records:
        folded = fold(record["question"])
        if record["lost"]:
            outcome = f"lost: {record['lost']}"
        elif folded in leaked:
            outcome, found = LEAKED, leaked[folded]
            found_in[found] += 1
        elif folded in seen:
            outcome = DUPLICATE
        elif near and (found := near.like(record["question"])) is not None:
            outcome = NEARLY_LEAKED if found else NEAR_DUPLICATE
            found_in.update([found] if found else [])
        else:
            outcome = "kept"
            kept.append(record)
            seen.add(folded)
            if near:
                near.add(record["question"], "")  # only questions of other files have a name
        outcomes[outcome] += 1
    return kept, {"questions": dict(outcomes), "found_in": dict(sorted(found_in.items()))}


def _right(records: Sequence[Mapping[str, Any]], rules: Normalisation) -> dict[tuple, bool]:
    """Whether each sample's answer is right, as in evaluation, by (question, kind, number)."""
    verdicts = {}
    for task in sorted({record["task"] for record in records}):
        traces = [
            {"id": record["id"], "sample": (each["kind"], each["number"]), "gold": record["gold"]}
            | {"answer": each["answer"], "finish": each["finish"]}
            for record in records
            if record["task"] == task
            for each in record["samples"]
        ]
        scores, _ = score_traces(traces, task=task, f1_threshold=rules.qa_f1)
        verdicts |= {(score["id"], *score["sample"]): bool(score["correct"]) for score in scores}
    return verdicts


def _compared(kind: str, samples: Sequence[Mapping], verdicts: Sequence[bool]) -> dict[str, int]:
    """Samples of one way of reasoning, and the right ones; a direct sample that calls a tool is not right."""
    found = [
        verdict and not (kind == "direct" and sample["emitted"])
        for sample, verdict in zip(samples, verdicts, strict=True)
        if sample["kind"] == kind
    ]
    return {"samples": len(found), "right": sum(found)}


def _trajectory(sample: Mapping[str, Any], right: bool, rules: Normalisation) -> tuple[str, dict]:
    """The rule that removes a trajectory, or "" and the trajectory."""
    segments = [Segment(**each) for each in sample["segments"]]
    calls = [(call.tool, " ".join(call.body.split())) for text in model_texts(segments) if (call := tool_call(text))]
    direct = sample["kind"] == "direct"
    if direct and sample["emitted"]:
        return "call where none is allowed", {}
    if sample["finish"] != "answer":
        return "unfinished", {}
    if not right:
        return "wrong answer", {}
    if not direct and not sample["executed"]:
        return "no call where one is allowed", {}
    if len(calls) > rules.max_calls:
        return "too many calls", {}
    if sample["executed"] < sample["emitted"]:
        return "call that did not run", {}
    if max(Counter(calls).values(), default=0) > rules.max_identical_calls:
        return "repeated call", {}
    in_format = repaired(segments)
    if in_format is None:
        return "format", {}
    output = "".join(segment.text for segment in in_format)
    before = "".join(segment.text for segment in segments)
    return "", {
        "kind": sample["kind"],
        "number": sample["number"],
        "calls": len(calls),
        "output": output,
        "repaired": output != before,
    }
