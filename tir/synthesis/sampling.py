"""Step 1: the teacher answers each question several times, without tools, with tools, and with a hint.

    direct    no tools
    tools     the tools of the question's task, which really run
    hint      a direct sample, cut where it hesitates (or before its answer), and continued with the tools

All use the rollout loop of training and evaluation. One record holds all samples of a question, so an interrupted run
repeats only the questions in flight. A record has no times: a run that was interrupted writes the same bytes.

The budget ends sampling after the question that exceeds it, in the order of the file. Questions that were asked at the
same time and come later are left out, so that the result does not depend on which answer came first.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tir.common.concurrency import run_all
from tir.common.records import digest, write_jsonl
from tir.common.resumable import ResumableWriter
from tir.rollout.engines.base import Engine, Sampling, request_seed
from tir.rollout.loop import RolloutSettings, rollout
from tir.rollout.prompts import render_prompt
from tir.rollout.protocol import Segment, encode_inside, extract_answer
from tir.rollout.retry import retried
from tir.rollout.trajectory import Trajectory
from tir.synthesis.prompts import HESITATION, hint, teacher_prompt
from tir.synthesis.questions import Question
from tir.synthesis.teacher import TeacherLost, TeacherUnavailable
from tir.tools.base import Tool

if TYPE_CHECKING:
    from tir.config.synthesis import SynthesisBudget, SynthesisSampling, Teacher

NO_GOLD, BUDGET = "no gold answer", "budget"


@dataclass(frozen=True)
class SamplingJob:
    """What all questions share.

    Attributes:
        teacher: the section `synthesis.teacher`.
        sampling: the section `synthesis.sampling`.
        settings: limits of a rollout with tools; without, no call is allowed.
        tools: tools by task, then by tag.
        system_prompt: the teacher's system prompt with `prompts: system`; None: its own for each set of tools.
        per_token: ids of the engine per token of the teacher.
    """

    teacher: Teacher
    sampling: SynthesisSampling
    settings: RolloutSettings
    tools: Mapping[str, Mapping[str, Tool]]
    system_prompt: str | None = None
    per_token: int = 1


async def sample_questions(
    engine: Engine,
    tokenizer: Any,
    questions: Sequence[Question],
    job: SamplingJob,
    output: str | os.PathLike,
    cache: str | os.PathLike,
    *,
    work: dict,
) -> dict[str, int]:
    """Write one record per question, in order: `{id, task, question, gold, source, samples, lost, why, usage}`.

    A sample is `{kind, number, segments: [{by, text}], answer, emitted, executed, finish}`. A question without samples
    has the reason in `lost`: `refused`, `failed`, `unreadable`, `no gold answer` or `budget`.

    Args:
        engine: see `rollout`.
        tokenizer: see `rollout`.
        questions: the questions.
        job: what they share.
        output: the finished file, JSON Lines.
        cache: folder of the records so far, which stay there: a larger budget or more questions add to them.
        work: what determines a sample; records of other work are not used.

    Returns the numbers of questions by outcome, `answered` or the reason in `lost`.
    Raises `TeacherUnavailable` if the teacher is gone, and the typed fault of a tool or engine that fails repeatedly.
    """
    with ResumableWriter(Path(cache, f"{digest(work)}.jsonl"), work=work, key=("id",)) as writer:
        done = {question.id: writer.done[question.id,] for question in questions if (question.id,) in writer.done}
        lost, shown = _Lost(job.teacher), 0.0
        if done:
            print(f"resuming: {len(done)} of {len(questions)} questions are done", file=sys.stderr)
        waiting = iter([each for each in enumerate(questions) if each[1].id not in done])

        async def ask_in_turn() -> None:
            nonlocal shown
            for position, question in waiting:  # shared by all workers, so questions begin in the order of the file
                earlier = (done[each.id] for each in questions[:position] if each.id in done)
                if _Spent(job.sampling.budget, earlier).exceeded:
                    return
                found = await _record(engine, tokenizer, question, job)
                done[question.id] = found
                if not lost.counts(found):  # a lost question is asked again by the next run
                    writer.add(found)
                shown = _show_progress(len(done), len(questions), shown)

        await run_all(ask_in_turn() for _ in range(job.teacher.concurrency))
    records = _within_budget(done, questions, job.sampling.budget)
    write_jsonl(output, records)
    return dict(Counter(record["lost"] or "answered" for record in records))


async def _record(engine: Engine, tokenizer: Any, question: Question, job: SamplingJob) -> dict:
    """All samples of a question, or the reason why there are none."""
    if not question.gold:
        return _row(question, lost=NO_GOLD)
    usage = {"tokens": 0, "calls": 0}

    async def sample(kind: str, number: int, begun: str = "") -> dict:
        trajectory = await _with_retries(engine, tokenizer, question, job, kind, number, begun)
        written = [segment for segment in trajectory.segments if segment.by == "model"]
        usage["tokens"] += sum(len(segment.token_ids) for segment in written) // job.per_token
        usage["calls"] += len(written)
        return _sample(kind, number, trajectory, begun)

    async def all_of(*samples: Any) -> list[dict]:
        found = await asyncio.gather(*samples, return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors:  # a fault of the machine counts more than a reply that is lost
            raise next((each for each in errors if not isinstance(each, TeacherLost)), errors[0])
        return list(found)

    try:
        plan = job.sampling
        direct = [sample("direct", number) for number in range(plan.direct)]
        found = await all_of(*direct, *(sample("tools", number) for number in range(plan.tools)))
        if job.tools.get(question.task):
            begun = [before_hesitation(found[number % plan.direct]) for number in range(plan.hints)]
            sentence = "" if job.system_prompt else hint(job.tools[question.task])
            texts = [with_hint(text, sentence) for text in begun]
            found += await all_of(*(sample("hint", number, text) for number, text in enumerate(texts) if text))
    except TeacherLost as error:
        return _row(question, lost=error.reason, why=error.why, usage=usage)
    return _row(question, samples=found, usage=usage)


async def _with_retries(
    engine: Engine, tokenizer: Any, question: Question, job: SamplingJob, kind: str, number: int, begun: str
) -> Trajectory:
    tools = {} if kind == "direct" else job.tools.get(question.task, {})
    settings = job.settings
    if kind == "direct":
        settings = replace(settings, tools=settings.tools.model_copy(update={"budget": 0, "over_budget": "end"}))
    prompt = render_prompt(tokenizer, job.system_prompt or teacher_prompt(tools), question.question)
    prompt += encode_inside(tokenizer, [begun])[0] if begun else []
    teacher, name = job.teacher, f"{question.id}-{kind}-{number}"
    seed = request_seed(job.sampling.seed, question.id, kind, number)
    sampling = Sampling(teacher.temperature, teacher.top_p, seed=seed)
    return await retried(
        lambda: rollout(engine, tokenizer, prompt, tools, settings, sampling, name), but_not=TeacherUnavailable
    )


def before_hesitation(sample: Mapping[str, Any]) -> str:
    """The text of a direct sample up to where it first hesitates, or up to its answer or a call; "" if it is empty."""
    text = "".join(segment["text"] for segment in sample["segments"] if segment["by"] == "model")
    ends = [text.find(tag) for tag in ("<answer>", "<python>", "<search>")]
    text = text[: min((end for end in ends if end >= 0), default=len(text))]
    hesitation = next((found for found in HESITATION.finditer(text) if text[: found.start()].strip("<think> \n")), None)
    return (text[: hesitation.start()] if hesitation else text).rstrip()


def with_hint(text: str, sentence: str) -> str:
    """A text that stops, then the sentence of the hint in a thought, which is closed after it. "" stays empty."""
    opened = text.count("<think>") > text.count("</think>")
    if not text or not sentence:
        return text + "</think>" * opened
    return f"{text} {sentence}</think>\n" if opened else f"{text}\n<think>{sentence}</think>\n"


def _sample(kind: str, number: int, trajectory: Trajectory, begun: str) -> dict:
    segments = [{"by": segment.by, "text": segment.text} for segment in trajectory.segments]
    if begun:
        segments[:1] = [{"by": "model", "text": begun + segments[0]["text"]}] if segments else []
    return {
        "kind": kind,
        "number": number,
        "segments": segments,
        "answer": extract_answer([Segment(**each) for each in segments]),
        "emitted": sum(trajectory.emitted.values()),
        "executed": sum(trajectory.executed.values()),
        "finish": trajectory.finish,
    }


def _row(question: Question, *, samples: Sequence[dict] = (), lost: str = "", why: str = "", usage: Any = None) -> dict:
    return {
        **{name: getattr(question, name) for name in ("id", "task", "question", "gold", "source")},
        "samples": list(samples),
        "lost": lost,
        "why": why[:300],
        "usage": usage or {"tokens": 0, "calls": 0},
    }


class _Spent:
    """What the questions so far have used of the budget."""

    def __init__(self, budget: SynthesisBudget, done: Iterable[Mapping] = ()):
        self._limits = {name: getattr(budget, name) for name in ("tokens", "calls")}
        self._used = dict.fromkeys(self._limits, 0)
        for record in done:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        for name in self._used:
            self._used[name] += record["usage"][name]

    @property
    def exceeded(self) -> bool:
        return any(limit is not None and self._used[name] >= limit for name, limit in self._limits.items())


def _show_progress(done: int, total: int, shown: float) -> float:
    """Print the number of finished questions, one line in 5 seconds; returns the time of the last line."""
    now = time.monotonic()
    if now - shown < 5 and done < total:
        return shown
    print(f"{done}/{total} questions", file=sys.stderr, flush=True)
    return now


def _within_budget(done: Mapping[str, dict], questions: Sequence[Question], budget: SynthesisBudget) -> list[dict]:
    """The records in order; those after the one that exceeds the budget say so, and hold no samples."""
    spent, records = _Spent(budget), []
    for question in questions:
        records.append(_row(question, lost=BUDGET) if spent.exceeded else done[question.id])
        spent.add(records[-1])
    return records


class _Lost:
    """Questions that the teacher's errors have cost; so many in a row that the teacher must be broken stop the run."""

    def __init__(self, teacher: Teacher):
        self._teacher, self._in_a_row = teacher, 0

    def counts(self, record: dict) -> bool:
        """Whether a record is one of a lost question. Raises `TeacherUnavailable` after too many in a row."""
        lost = record["lost"] not in ("", NO_GOLD)
        self._in_a_row = self._in_a_row + 1 if lost else 0
        if self._in_a_row >= self._teacher.lost_in_a_row:
            raise TeacherUnavailable(
                "the teacher gives no usable reply",
                where=f"config.yaml:synthesis.teacher.endpoint: {self._teacher.endpoint}",
                why=f"{self._in_a_row} questions in a row were lost, the last one {record['lost']}: {record['why']}",
                remedy="check the server and synthesis.teacher, then run the same command again; the questions "
                "answered so far are kept",
            )
        return lost
