"""The rollout loop, one for training and evaluation: generate, run the tool, inject its result, go on.

Each trajectory is a coroutine that continues as soon as its own tool answers; there is no batch barrier. The loop is
token-in/token-out: what the engine produced is kept, tool text is encoded once with control tokens disabled, nothing
is tokenised again.

    prompt ids ─> engine ─> ids up to </python> | </search> | end
                    ▲                 │
                    └─ <result>..</result> ids (mask 0) ◀─ tool
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from tir.engines.base import Engine, Sampling
from tir.protocol import STOP_STRINGS, Segment, encode_tool_text, render_result, tool_call
from tir.tools.base import Tool, ToolResult

Finish = Literal["answer", "length", "budget"]
BUDGET_NOTICE = "No tool calls are left. Give the final answer now."


@dataclass(frozen=True)
class RolloutSettings:
    """Limits and conventions of a rollout (UPSTREAM compatibility flags of the study's stack).

    Attributes:
        max_response_tokens: cap on model plus tool tokens of a trajectory.
        tool_budget: executed calls in total (upstream RL and ours 3), whatever the tool.
        leading_space: put a space before `<result>` (upstream RL yes, upstream evaluation no).
        tool_tokens: cap on one injected result in tokens; longer ones lose their middle.
    """

    max_response_tokens: int = 4096
    tool_budget: int = 3
    leading_space: bool = False
    tool_tokens: int = 1024


@dataclass
class Trajectory:
    """A finished rollout.

    Attributes:
        segments: model and tool segments in order.
        finish: `answer` (the model ended its text), `length` (cap reached) or `budget` (it asked for a tool again
            after being told that none was left).
        executed: calls that ran, by tool. emitted: calls the model asked for, by tool.
        seconds: wall time; tool_seconds: the part spent waiting for tools.
    """

    segments: list[Segment] = field(default_factory=list)
    finish: Finish = "answer"
    executed: dict[str, int] = field(default_factory=dict)
    emitted: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tool_seconds: float = 0.0

    @property
    def response_ids(self) -> list[int]:
        """All ids after the prompt, model and tool."""
        return [token for segment in self.segments for token in segment.token_ids]

    @property
    def response_mask(self) -> list[int]:
        """1 on model tokens, 0 on tool tokens; same length as `response_ids`."""
        return [int(segment.by == "model") for segment in self.segments for _ in segment.token_ids]

    @property
    def response_log_probs(self) -> list[float]:
        """Sampling log-probabilities, 0 on tool tokens; same length as `response_ids`."""
        return [value for segment in self.segments
                for value in (segment.log_probs or [0.0] * len(segment.token_ids))]


async def rollout(engine: Engine, tokenizer, prompt_ids: list[int], tools: dict[str, Tool],
                  settings: RolloutSettings, sampling: Sampling, request_id: str) -> Trajectory:
    """Run one trajectory to its end.

    Args:
        engine: any `tir.engines.base.Engine`.
        tokenizer: the policy's tokenizer, for decoding model tokens and encoding tool text.
        prompt_ids: rendered chat prompt.
        tools: by tag name; a tag without a tool is answered by a notice.
        settings, sampling: limits and decoding.
        request_id: unique name of this trajectory, for the engine's prefix cache and logs.

    Raises:
        InfrastructureFault: a tool or the engine failed; the trajectory must be retried, not scored.
    """
    trajectory = Trajectory(executed=dict.fromkeys(tools, 0), emitted=dict.fromkeys(tools, 0))
    started, context, warned = time.monotonic(), list(prompt_ids), False
    while True:
        left = settings.max_response_tokens - (len(context) - len(prompt_ids))
        if left <= 0:
            trajectory.finish = "length"
            break
        completion = await engine.generate(context, max_tokens=left, sampling=sampling, stop=STOP_STRINGS,
                                           request_id=request_id)
        text = tokenizer.decode(_without_end(completion, tokenizer), skip_special_tokens=False)
        trajectory.segments.append(Segment("model", text, list(completion.token_ids), list(completion.log_probs)))
        context += completion.token_ids
        if completion.finish != "stop":
            trajectory.finish = "answer" if completion.finish == "eos" else "length"
            break
        call = tool_call(text)
        if call is None:
            continue  # a closing tag without an opening one: the model goes on writing
        trajectory.emitted[call.tool] = trajectory.emitted.get(call.tool, 0) + 1
        if sum(trajectory.executed.values()) >= settings.tool_budget:
            if warned:
                trajectory.finish = "budget"
                break
            payload, warned = BUDGET_NOTICE, True
        elif call.tool not in tools:
            payload = f"The {call.tool} tool is not available."
        else:
            result: ToolResult = await tools[call.tool].call(call.body)
            trajectory.executed[call.tool] += 1
            trajectory.tool_seconds += result.seconds
            payload = result.text
        segment = _tool_segment(tokenizer, payload, settings)
        room = settings.max_response_tokens - (len(context) - len(prompt_ids))
        if len(segment.token_ids) >= room:
            trajectory.finish = "length"
            break
        trajectory.segments.append(segment)
        context += segment.token_ids
    trajectory.seconds = time.monotonic() - started
    return trajectory


def _without_end(completion, tokenizer) -> list[int]:
    """The ids without a closing control token, which is not part of the text."""
    ids = completion.token_ids
    return ids[:-1] if completion.finish == "eos" and ids and ids[-1] in tokenizer.all_special_ids else ids


def _tool_segment(tokenizer, payload: str, settings: RolloutSettings) -> Segment:
    """Encode a result, shortening a payload that exceeds the per-call token cap."""
    text = render_result(payload, leading_space=settings.leading_space)
    ids = encode_tool_text(tokenizer, text)
    if len(ids) > settings.tool_tokens:
        keep = max(1, int(len(payload) * settings.tool_tokens / len(ids) / 2) - 2)
        text = render_result(payload[:keep] + "..." + payload[-keep:], leading_space=settings.leading_space)
        ids = encode_tool_text(tokenizer, text)
    return Segment("tool", text, ids)
