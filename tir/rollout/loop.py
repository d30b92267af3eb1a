"""The rollout loop of training and evaluation: generate, run the tool, append its result, repeat.

Each trajectory is a coroutine that continues as soon as its own tool returns; trajectories never wait for each other.
The loop is token-in/token-out: the generated ids are kept, tool text is encoded once with control tokens disabled, and
nothing is tokenised again.

    prompt ids ─> engine ─> ids up to </python> | </search> | end
                    ▲                 │
                    └─ <result>..</result> ids (mask 0) ◀─ tool

The section `tools` covers the differences between upstream's two loops; `tir.config.presets` names the combinations.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tir.rollout.engines.base import Completion, Engine, Sampling, request_seed
from tir.rollout.helpers.base import Helpers
from tir.rollout.prompts import end_of_turn
from tir.rollout.protocol import (
    STOP_STRINGS,
    Segment,
    ToolCall,
    control_ids,
    decode,
    encode_tool_text,
    render_result,
    tool_call,
)
from tir.rollout.trajectory import Trajectory
from tir.tools.base import Tool

if TYPE_CHECKING:
    from tir.config.tools import Calling

BUDGET_NOTICE = "No tool calls are left. Give the final answer now."
TAG_NOTICE = "No {tag} calls are left. Use another tool or give the final answer."


@dataclass(frozen=True)
class RolloutSettings:
    """Limits and conventions of a rollout.

    Attributes:
        tools: how tools are called: `budget`, `over_budget`, `leading_space`, `result_tokens`.
        max_response_tokens: maximum number of model and tool tokens of a trajectory.
    """

    tools: Calling
    max_response_tokens: int

    def allows(self, tag: str, used: Mapping[str, int]) -> bool:
        """Whether one more call of a tag is within the budget; `used`: calls so far, by tag."""
        budget = self.tools.budget
        return sum(used.values()) < budget if isinstance(budget, int) else used.get(tag, 0) < budget.get(tag, 0)

    def notice(self, tag: str, used: Mapping[str, int], tags: Iterable[str]) -> str:
        """The result of a call beyond the budget; `tags`: the available tools."""
        others = any(self.allows(other, used) for other in tags)
        return TAG_NOTICE.format(tag=tag) if others else BUDGET_NOTICE

    def cap(self, tag: str) -> int | None:
        """Maximum number of tokens of a result of a tag, or None."""
        most = self.tools.result_tokens
        return most.get(tag) if isinstance(most, Mapping) else most


async def rollout(
    engine: Engine,
    tokenizer,
    prompt_ids: list[int],
    tools: Mapping[str, Tool],
    settings: RolloutSettings,
    sampling: Sampling,
    request_id: str,
    helpers: Helpers | None = None,
) -> Trajectory:
    """Generate one trajectory.

    Args:
        engine: any `tir.rollout.engines.base.Engine`.
        tokenizer: the policy's tokenizer, for decoding model tokens and encoding tool text.
        prompt_ids: rendered chat prompt.
        tools: tools by tag. A call of a tag without a tool gets a notice as its result and counts towards the budget.
        settings: limits and conventions.
        sampling: decoding parameters.
        request_id: unique name of this trajectory, for the engine's prefix cache and logs.
        helpers: inference-time helpers; None in training, which needs text sampled from the policy.

    Raises:
        InfrastructureFault: a tool, a helper or the engine failed; the trajectory must be retried, not scored.
    """
    trajectory = Trajectory(executed=dict.fromkeys(tools, 0), emitted=dict.fromkeys(tools, 0))
    used: Counter[str] = Counter()  # calls within the budget, by tag, including calls of unavailable tools
    started, stop = time.monotonic(), STOP_STRINGS
    notices: set[str] = set()  # notices that the model has seen; a repeated one ends the trajectory
    helper = helpers.begin(trajectory, tokenizer) if helpers else None
    for turn in itertools.count():
        turn_sampling = await helper.before_turn(prompt_ids, sampling) if helper else sampling
        response = trajectory.response_ids
        remaining = settings.max_response_tokens - len(response)
        if remaining <= 0:
            trajectory.finish = "length"
            break
        completion = await engine.generate(
            [*prompt_ids, *response],
            max_tokens=remaining,
            sampling=_with_turn_seed(turn_sampling, turn),
            stop=stop,
            request_id=request_id,
        )
        text = decode(tokenizer, _without_end_token(completion, tokenizer))
        trajectory.segments.append(Segment("model", text, list(completion.token_ids), list(completion.log_probs)))
        if completion.finish != "stop":
            trajectory.finish = "answer" if completion.finish == "eos" else "length"
            break
        call = tool_call(text)
        if call is None:
            continue  # a closing tag without an opening tag is plain text
        trajectory.emitted[call.tool] = trajectory.emitted.get(call.tool, 0) + 1
        if settings.allows(call.tool, used):
            used[call.tool] += 1
            payload = await _run(call, tools, trajectory, helper)
            if payload is None:
                continue  # a helper removed the call from the trajectory
        elif settings.tools.over_budget == "continue":
            stop = ()
            continue
        elif settings.tools.over_budget == "end":
            if len(trajectory.response_ids) < settings.max_response_tokens:
                trajectory.segments.append(Segment("model", "", [end_of_turn(tokenizer).token_id], [0.0]))
            trajectory.finish = "budget"
            break
        elif (payload := settings.notice(call.tool, used, tools)) in notices:
            trajectory.finish = "budget"
            break
        else:
            notices.add(payload)
        segment = tool_segment(tokenizer, payload, settings.cap(call.tool), leading_space=settings.tools.leading_space)
        if len(segment.token_ids) >= settings.max_response_tokens - len(trajectory.response_ids):
            trajectory.finish = "length"
            break
        trajectory.segments.append(segment)
    trajectory.seconds = time.monotonic() - started
    return trajectory


async def _run(call: ToolCall, tools: Mapping[str, Tool], trajectory: Trajectory, helper) -> str | None:
    """Execute a call within the budget and return the result's text; None if a helper removed the call."""
    if call.tool not in tools:
        return f"The {call.tool} tool is not available."
    result = await tools[call.tool].call(call.body)
    trajectory.executed[call.tool] += 1
    trajectory.tool_seconds += result.seconds
    if helper and result.status != "ok":
        result = await helper.after_failure(call, result, tools[call.tool])
    return None if result is None else result.text


def _with_turn_seed(sampling: Sampling, turn: int) -> Sampling:
    """Use a different seed for each turn: with the same seed every turn would draw the same random numbers."""
    return sampling if sampling.seed is None else replace(sampling, seed=request_seed(sampling.seed, turn))


def _without_end_token(completion: Completion, tokenizer) -> list[int]:
    """The ids without a final control token, which is not part of the text."""
    ids = completion.token_ids
    ends = completion.finish == "eos" and ids and ids[-1] in control_ids(tokenizer)
    return ids[:-1] if ends else ids


def tool_segment(tokenizer, payload: str, max_tokens: int | None, *, leading_space: bool = False) -> Segment:
    """Encode a result. If it is longer than `max_tokens`, remove characters from the middle of the payload."""
    text = render_result(payload, leading_space=leading_space)
    ids = encode_tool_text(tokenizer, text)
    keep = len(payload) // 2
    while max_tokens is not None and len(ids) > max_tokens and keep:
        # Repeated, because the number of tokens per character varies along the text.
        keep = min(keep - 1, int(keep * max_tokens / len(ids)))
        text = render_result(f"{payload[:keep]}...{payload[len(payload) - keep :]}", leading_space=leading_space)
        ids = encode_tool_text(tokenizer, text)
    return Segment("tool", text, ids)
