"""Trajectories and scores as an evaluation log of inspect_ai, written through its own API.

Runs in the environment `.venv/inspect`, which has inspect_ai and nothing of the workflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
)
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import CORRECT, INCORRECT, Score
from inspect_ai.tool import ToolCall, ToolCallError

from tir.analysis.exports import Trajectories, golds, item_mean, values
from tir.analysis.segments import segments_of
from tir.analysis.tool_errors import is_error, payload
from tir.common.records import digest
from tir.rollout.protocol import Segment, tool_call

STOPS = {"answer": "stop", "length": "max_tokens", "budget": "unknown"}
_ARGUMENT = {"python": "code", "search": "query"}


def eval_log(found: Trajectories, *, model: str, task: str, system_prompt: str, settings: Mapping[str, Any]) -> EvalLog:
    """The log of a model on a benchmark, or of a step of reinforcement learning.

    Args:
        found: the trajectories; one without a score has no scores in the log either. If they are not finished, the log
            is one of an evaluation that goes on.
        model: model id, or name of the run.
        task: name of the benchmark, or kind and number of the step.
        system_prompt: text of the system turn.
        settings: what the run is described by, with `evaluation` (temperature, samples, ...).
    """
    traces, created = found.traces, found.created
    name = digest([model, task, settings, created])
    samples = [_sample(row, found.score(row), model, system_prompt, name) for row in traces]
    items = list(dict.fromkeys(row["id"] for row in traces))
    decoding = settings.get("evaluation", {})
    time = datetime.fromtimestamp(created, UTC).isoformat()
    return EvalLog(
        status="success" if found.finished else "started",
        eval=EvalSpec(
            eval_id=f"{name}-eval",
            run_id=f"{name}-run",
            task_id=f"{name}-task",
            created=time,
            task=task,
            model=model,
            dataset=EvalDataset(name=task, samples=len(items), sample_ids=items),
            config=EvalConfig(epochs=len({row["sample"] for row in traces})),
            model_generate_config=GenerateConfig(
                temperature=decoding.get("temperature"), top_p=decoding.get("top_p"), seed=decoding.get("seed")
            ),
            metadata=dict(settings),
        ),
        stats=_stats(samples, model, created if found.finished else None),
        results=_results(samples, len(traces)) if found.finished else None,
        samples=samples,
    )


def _sample(
    trace: Mapping[str, Any], score: Mapping[str, Any] | None, model: str, system_prompt: str, name: str
) -> EvalSample:
    segments = segments_of(trace)
    asked = [ChatMessageSystem(content=system_prompt, id="system")] if system_prompt else []
    asked.append(ChatMessageUser(content=trace["question"], id="user"))
    written = list(_messages(segments, model))
    usage = _usage(trace["usage"])
    output = ModelOutput.from_content(model, written[-1].text if written else "", stop_reason=STOPS[trace["finish"]])
    output.usage = usage
    return EvalSample(
        id=trace["id"],
        epoch=trace["sample"] + 1,
        input=asked,
        target=golds(trace),
        messages=[*asked, *written],
        output=output,
        scores=_scores(score, trace["answer"]),
        model_usage={model: usage} if usage else {},
        total_time=trace["timings"].get("seconds"),
        uuid=digest([name, trace["id"], trace["sample"]]),
        metadata={
            key: trace[key]
            for key in ("finish", "fault", "n_python", "n_search", "first_tool_offset", "helped", "task")
            if key in trace
        },
    )


def _usage(tokens: Mapping[str, Any]) -> ModelUsage | None:
    """Tokens of the model as output, those of tools as input; without the prompt, which records do not count.

    None if the record does not say, because inspect_ai would show 0.
    """
    written, total = tokens.get("model_tokens"), tokens.get("response_tokens")
    if written is None or total is None:
        return None
    return ModelUsage(input_tokens=total - written, output_tokens=written, total_tokens=total)


def _stats(samples: Sequence[EvalSample], model: str, ended: float | None) -> EvalStats:
    """Tokens of all samples, none if those of one are not known; after the end, the sum of their times as the duration.

    The records do not have the time of the whole job. Without a start, the viewer would show NaN, or 0.
    """
    known = [each.model_usage[model] for each in samples if each.model_usage]
    usage = {model: sum(known, ModelUsage())} if len(known) == len(samples) else {}
    if ended is None:
        return EvalStats(model_usage=usage)
    seconds = sum(each.total_time or 0 for each in samples)
    started, completed = (datetime.fromtimestamp(each, UTC).isoformat() for each in (ended - seconds, ended))
    return EvalStats(started_at=started, completed_at=completed, model_usage=usage)


def _messages(segments: Sequence[Segment], model: str) -> Iterator[ChatMessage]:
    """One message for each segment. Text stays as it was written, with its tags; a call is also stated as a call."""
    for number, segment in enumerate(segments):
        before = segments[number - 1] if number else None
        if segment.by == "tool":
            call = tool_call(before.text) if before and before.by == "model" else None
            failed = before is not None and is_error(before, segment)
            yield ChatMessageTool(
                id=f"tool-{number}",
                content=segment.text,
                tool_call_id=f"call-{number}",
                function=call.tool if call else None,
                error=ToolCallError("unknown", payload(segment.text)) if failed else None,
            )
            continue
        answered = number + 1 < len(segments) and segments[number + 1].by == "tool"
        call = tool_call(segment.text) if answered else None
        calls = [ToolCall(f"call-{number + 1}", call.tool, {_ARGUMENT[call.tool]: call.body})] if call else None
        yield ChatMessageAssistant(
            id=f"model-{number}", content=segment.text, tool_calls=calls, model=model, source="generate"
        )


def _scores(score: Mapping[str, Any] | None, answer: str | None) -> dict[str, Score] | None:
    """`correct` as C or I, and the other numbers of the score; None for a trajectory that has not been scored."""
    if score is None:
        return None
    decided = {"decided_by": score.get("decided_by")}
    return {
        name: Score(value=CORRECT if value else INCORRECT, answer=answer, metadata=decided)
        if name == "correct"
        else Score(value=value, answer=answer)
        for name, value in values(score).items()
    }


def _results(samples: Sequence[EvalSample], total: int) -> EvalResults:
    """Mean over items of each metric, and its standard error over items."""
    names = dict.fromkeys(name for each in samples for name in each.scores or {})
    return EvalResults(total_samples=total, completed_samples=total, scores=[_mean(samples, name) for name in names])


def _mean(samples: Sequence[EvalSample], name: str) -> EvalScore:
    scored = [(each.id, each.scores[name].value) for each in samples if each.scores and name in each.scores]
    numbers = [(item, float(value == CORRECT if isinstance(value, str) else value)) for item, value in scored]
    metrics = dict(zip(("mean", "stderr"), item_mean(numbers), strict=True))
    return EvalScore(
        name=name,
        scorer=name,
        scored_samples=len(scored),
        unscored_samples=len(samples) - len(scored),
        metrics={key: EvalMetric(name=key, value=value) for key, value in metrics.items() if value is not None},
    )
