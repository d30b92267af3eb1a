"""Judge a trace file: rules first where asked, the model for the rest, a report of how far the two agree.

Rules settle an answer they find equal to the gold (they do not call different things equal: of a web answer, only the
gold's own text) and an answer that is not there. Everything else goes to the model. A seeded share of what the rules settled goes to it as well (`audit`), or
nobody would ever learn whether the two disagree in that direction.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tir.answers.math import math_equal
from tir.answers.qa import gold_list
from tir.answers.verifier import default_verifier
from tir.errors import JudgeUnavailable
from tir.judge.calibration import calibrate
from tir.judge.client import JudgeClient
from tir.judge.prompt import NAME, messages, shown_output
from tir.records import digest

Traces = Sequence[Mapping[str, Any]]


def by_rules(traces: Traces, task: str) -> list[bool]:
    """What the rules say of each trajectory: mathematical equality, or for the web the gold's own text.

    Not the character F1 by which web answers are scored: one wrong digit of a date leaves nearly all of it. Nor the
    normalisation of exact match, which takes points and signs away: 3.5 is not 35.
    """
    if task == "math":
        verifier = default_verifier()
        verifier.self_test()
        return [bool(math_equal(trace["answer"], trace["gold"], verifier)) for trace in traces]
    return [_same_text(trace["answer"], trace["gold"]) for trace in traces]


def _same_text(answer: str | None, golds: Any) -> bool:
    """Whether an answer is one of the golds, case and spacing aside."""
    return answer is not None and _folded(answer) in map(_folded, gold_list(golds))


def _folded(text: object) -> str:
    return " ".join(str(text).casefold().split())


def judge_traces(
    traces: Traces,
    ruled: Sequence[bool],
    client: Callable[[], JudgeClient],
    *,
    rule_first: bool = True,
    audit: int = 20,
    max_unreadable: float = 0.0,
    min_calibration: float = 0.0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Verdicts on trajectories.

    Args:
        traces: trace records.
        ruled: whether the rules call each correct.
        client: gives the judge; called only if something must be asked.
        rule_first: let the rules settle what they can.
        audit: items settled by the rules that are judged all the same.
        max_unreadable: share of asked items that may stay without a verdict; such a row has `verdict: null`.
        min_calibration: share of the calibration set that a judge must get right to be believed.

    Returns:
        Rows {id, sample, verdict, cached, by, reply, attempts}, in order, `by` being rules or judge; and a report.

    Raises `JudgeUnavailable` for a judge that is away, fails its calibration or leaves too many replies unreadable.
    """
    settled = [_settled(trace, right) if rule_first else None for trace, right in zip(traces, ruled, strict=True)]
    audited = _audited(traces, settled, audit)
    asked = [position for position, each in enumerate(settled) if each is None or position in audited]
    report: dict[str, Any] = {"judge": NAME, "items": len(traces), "settled_by_rules": len(traces) - settled.count(None),
                              "audited": len(audited), "asked": len(asked), "cached": 0, "calls": 0}
    verdicts = {}
    if asked:
        model = client()
        report["calibration"] = calibrate(model)
        _believe(report["calibration"], min_calibration, model.endpoint)
        before = dict(model.counts)
        requests = [messages(traces[each]["question"], traces[each]["gold"], shown_output(traces[each])) for each in asked]
        verdicts = dict(zip(asked, model.ask(requests, _progress(len(asked))), strict=True))
        report |= {name: count - before[name] for name, count in model.counts.items()}
        report["calls_with_calibration"] = model.counts["calls"]
        report["agreement"] = _agreement(asked, verdicts, ruled)
        _refuse_unreadable(asked, verdicts, traces, max_unreadable, model.endpoint)
    rows = []
    for position, trace in enumerate(traces):
        row = {"id": trace["id"], "sample": trace["sample"]}
        found = verdicts.get(position)
        if settled[position] is not None:
            row |= {"verdict": settled[position], "cached": False, "by": "rules", "reply": None, "attempts": 0}
        else:
            row |= {"verdict": found.verdict, "cached": found.cached, "by": "judge", "reply": found.reply,
                    "attempts": found.attempts}
        rows.append(row)
    report["without_verdict"] = sum(row["verdict"] is None for row in rows)
    return rows, report


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines, for the log."""
    lines = [f"{report['judge']}: {report['items']} items, {report['settled_by_rules']} settled by rules, "
             f"{report['asked']} asked ({report['audited']} of them to audit the rules), "
             f"{report['cached']} from the cache, {report['calls']} calls"]
    if "agreement" in report:
        each = report["agreement"]
        lines.append(f"agreement with the rules: {each['agree']} of {each['n']} (judge alone {each['judge_only']}, "
                     f"rules alone {each['rules_only']}, unreadable {each['unreadable']})")
        each = report["calibration"]
        lines.append(f"calibration: {each['right']} of {each['n']} right [{each['lo']}, {each['hi']}]")
        lines += [f"  wrong: {row}" for row in each["wrong"]]
    return "\n".join(lines)


def _settled(trace: Mapping, right: bool) -> bool | None:
    if right:
        return True
    answer = trace.get("answer")
    return False if answer is None or not str(answer).strip() else None


def _audited(traces: Traces, settled: Sequence[bool | None], count: int) -> set[int]:
    """Positions drawn by the items' own content, the same in every run."""
    positions = [each for each, verdict in enumerate(settled) if verdict is not None]
    order = random.Random(digest([trace["id"] for trace in traces]))
    return set(order.sample(positions, min(count, len(positions))))


def _agreement(asked: Sequence[int], verdicts: Mapping[int, Any], ruled: Sequence[bool]) -> dict[str, int]:
    pairs = [(verdicts[each].verdict, bool(ruled[each])) for each in asked]
    return {"n": len(pairs), "agree": sum(judged is rule for judged, rule in pairs),
            "judge_only": pairs.count((True, False)), "rules_only": pairs.count((False, True)),
            "unreadable": sum(judged is None for judged, _ in pairs)}


def _believe(calibration: Mapping[str, Any], needed: float, where: str) -> None:
    if calibration["right"] < needed * calibration["n"]:
        raise JudgeUnavailable("the judge fails its calibration", where=where,
                               why=f"{calibration['right']} of {calibration['n']} right; judge.min_calibration is {needed}",
                               remedy="serve a more able model, or set judge: {kind: rules}")


def _refuse_unreadable(asked, verdicts, traces: Traces, allowed: float, where: str) -> None:
    lost = [each for each in asked if verdicts[each].verdict is None]
    if len(lost) > allowed * len(asked):
        first = lost[0]
        raise JudgeUnavailable(
            "replies are no verdicts", where=where,
            why=f"{len(lost)} of {len(asked)}, e.g. item {traces[first]['id']}: {verdicts[first].reply[:80]!r}",
            remedy="use a server with structured outputs, or allow some: judge: {max_unreadable: 0.01}")


def _progress(total: int) -> Callable[[int], None]:
    step = max(50, total // 10)

    def told(done: int) -> None:
        if done % step == 0:
            print(f"judged {done} of {total}", file=sys.stderr, flush=True)

    return told
