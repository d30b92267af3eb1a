"""Judge a trace file: rules first, the model for the rest, and a report of their agreement.

The rules settle an answer that equals the gold (for math by `math_equal`, for the web by the same text) and a missing
answer. Every other answer is sent to the model. A seeded sample of the settled answers (`audit`) is also sent, to
measure how often the model disagrees with the rules there.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tir.common.errors import JudgeUnavailable
from tir.common.records import digest
from tir.scoring.answers.math import math_equal
from tir.scoring.answers.qa import gold_list
from tir.scoring.answers.verifier import default_verifier
from tir.scoring.judge.calibration import calibrate
from tir.scoring.judge.client import JudgeClient
from tir.scoring.judge.prompt import NAME, messages, shown_output

if TYPE_CHECKING:
    from tir.config.judge import Judge
    from tir.scoring.judge.cache import Verdict

Traces = Sequence[Mapping[str, Any]]


def by_rules(traces: Traces, task: str) -> list[bool]:
    """Whether the rules find each trajectory correct: mathematical equality, or for the web the same text as a gold.

    Character F1, which scores web answers, is not used: a date with one wrong digit still gets a high value. Exact
    match is not used either: its normalisation removes decimal points and signs, so 3.5 equals 35.
    """
    if task == "math":
        verifier = default_verifier()
        verifier.self_test()
        return [bool(math_equal(trace["answer"], trace["gold"], verifier)) for trace in traces]
    return [_same_text(trace["answer"], trace["gold"]) for trace in traces]


def _same_text(answer: str | None, golds: Any) -> bool:
    """Whether an answer equals a gold, apart from case and white space."""
    return answer is not None and _casefolded(answer) in map(_casefolded, gold_list(golds))


def _casefolded(text: object) -> str:
    return " ".join(str(text).casefold().split())


def judge_traces(
    traces: Traces,
    rule_verdicts: Sequence[bool],
    client: Callable[[], JudgeClient],
    judge: Judge,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Verdicts on trajectories.

    Args:
        traces: trace records.
        rule_verdicts: whether the rules find each trajectory correct.
        client: returns the judge's client; called only if there is a request to send.
        judge: the section `judge`. A row of an item that stays without a verdict has `verdict: null`.

    Returns:
        Rows {id, sample, verdict, by, reply, attempts} in the order of `traces`, where `by` is "rules" or "judge", and
        a report. Both are the same whether the run was interrupted or not; what was asked now and what was in the cache
        is only printed.

    Raises `JudgeUnavailable` if the judge cannot be reached, fails its calibration, or gives too many unreadable
    replies.
    """
    settled = [
        _settled(trace, right) if judge.rule_first else None for trace, right in zip(traces, rule_verdicts, strict=True)
    ]
    audited = _audited(traces, settled, judge.audit)
    asked = [position for position, verdict in enumerate(settled) if verdict is None or position in audited]
    report: dict[str, Any] = {
        "judge": NAME,
        "items": len(traces),
        "settled_by_rules": len(traces) - settled.count(None),
        "audited": len(audited),
        "asked": len(asked),
    }
    verdicts = {}
    if asked:
        model = client()
        report["calibration"] = calibrate(model)
        _require_calibration(report["calibration"], judge.min_calibration, model.endpoint)
        to_judge = [traces[position] for position in asked]
        requests = [messages(trace["question"], trace["gold"], shown_output(trace)) for trace in to_judge]
        verdicts = dict(zip(asked, model.ask(requests, _progress(len(asked))), strict=True))
        print(
            "verdicts, with the calibration: {cached} from the cache, {calls} requests ({repeated} repeated, "
            "{unreadable} unreadable replies)".format(**model.counts),
            file=sys.stderr,
        )
        report["agreement"] = _agreement(asked, verdicts, rule_verdicts)
        _require_readable(asked, verdicts, traces, judge.max_unreadable, model.endpoint)
    rows = [_verdict_row(trace, settled[position], verdicts.get(position)) for position, trace in enumerate(traces)]
    report["without_verdict"] = sum(row["verdict"] is None for row in rows)
    return rows, report


def _verdict_row(trace: Mapping, settled: bool | None, judged: Verdict | None) -> dict[str, Any]:
    """The rules' verdict on a trajectory; the judge's if they have none."""
    if settled is None:
        verdict = {"verdict": judged.verdict, "by": "judge", "reply": judged.reply, "attempts": judged.attempts}
    else:
        verdict = {"verdict": settled, "by": "rules", "reply": None, "attempts": 0}
    return {"id": trace["id"], "sample": trace["sample"], **verdict}


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines, for the log."""
    lines = [
        f"{report['judge']}: {report['items']} items, {report['settled_by_rules']} settled by rules, "
        f"{report['asked']} judged ({report['audited']} of them to audit the rules)"
    ]
    if "agreement" in report:
        agreement, calibration = report["agreement"], report["calibration"]
        lines.append(
            f"agreement with the rules: {agreement['agree']} of {agreement['n']} (correct only for the judge "
            f"{agreement['judge_only']}, only for the rules {agreement['rules_only']}, "
            f"unreadable {agreement['unreadable']})"
        )
        lines.append(
            f"calibration: {calibration['right']} of {calibration['n']} right "
            f"[{calibration['lo']}, {calibration['hi']}]"
        )
        lines += [f"  wrong: {row}" for row in calibration["wrong"]]
    return "\n".join(lines)


def _settled(trace: Mapping, right: bool) -> bool | None:
    """The rules' verdict: True for an equal answer, False for a missing one, None if the judge must decide."""
    if right:
        return True
    answer = trace.get("answer")
    return False if answer is None or not str(answer).strip() else None


def _audited(traces: Traces, settled: Sequence[bool | None], count: int) -> set[int]:
    """Random positions of settled items; the seed is a digest of the items' ids, so every run draws the same."""
    positions = [position for position, verdict in enumerate(settled) if verdict is not None]
    order = random.Random(digest([trace["id"] for trace in traces]))
    return set(order.sample(positions, min(count, len(positions))))


def _agreement(asked: Sequence[int], verdicts: Mapping[int, Any], rule_verdicts: Sequence[bool]) -> dict[str, int]:
    pairs = [(verdicts[position].verdict, bool(rule_verdicts[position])) for position in asked]
    return {
        "n": len(pairs),
        "agree": sum(judged is by_rule for judged, by_rule in pairs),
        "judge_only": pairs.count((True, False)),
        "rules_only": pairs.count((False, True)),
        "unreadable": sum(judged is None for judged, _ in pairs),
    }


def _require_calibration(calibration: Mapping[str, Any], minimum: float, endpoint: str) -> None:
    if calibration["right"] < minimum * calibration["n"]:
        raise JudgeUnavailable(
            "the judge fails its calibration",
            where=endpoint,
            why=f"{calibration['right']} of {calibration['n']} verdicts are right; judge.min_calibration is {minimum}",
            remedy="serve a stronger model, or write judge: {kind: rules}",
        )


def _require_readable(asked, verdicts, traces: Traces, allowed: float, endpoint: str) -> None:
    unreadable = [position for position in asked if verdicts[position].verdict is None]
    if len(unreadable) > allowed * len(asked):
        first = unreadable[0]
        raise JudgeUnavailable(
            "the judge's replies are not verdicts",
            where=endpoint,
            why=f"{len(unreadable)} of {len(asked)}, e.g. item {traces[first]['id']}: {verdicts[first].reply[:80]!r}",
            remedy="use a server with structured outputs, or allow some: judge: {max_unreadable: 0.01}",
        )


def _progress(total: int) -> Callable[[int], None]:
    """A callback that prints the number of judged items about ten times."""
    step = max(50, total // 10)

    def report(done: int) -> None:
        if done % step == 0:
            print(f"judged {done} of {total}", file=sys.stderr, flush=True)

    return report
