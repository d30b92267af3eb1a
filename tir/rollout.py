"""The rollout loop, one for training and evaluation: generate, run the tool, inject its result, go on.

Each trajectory is a coroutine that continues as soon as its own tool answers; there is no batch barrier. The loop is
token-in/token-out: what the engine produced is kept, tool text is encoded once with control tokens disabled, nothing
is tokenised again.

    prompt ids ─> engine ─> ids up to </python> | </search> | end
                    ▲                 │
                    └─ <result>..</result> ids (mask 0) ◀─ tool

What upstream's two loops do differently is a setting here; `tir.presets` names the combinations.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tir.engines.base import Completion, Engine, Sampling, request_seed
from tir.helping import Helpers
from tir.protocol import STOP_STRINGS, Segment, ToolCall, encode_tool_text, render_result, tool_call
from tir.tools.base import Tool
from tir.trajectory import Trajectory

BUDGET_NOTICE = "No tool calls are left. Give the final answer now."
TAG_NOTICE = "No {tag} calls are left. Use another tool or give the final answer."


@dataclass(frozen=True)
class RolloutSettings:
    """Limits and conventions of a rollout.

    Attributes:
        max_response_tokens: cap on model plus tool tokens of a trajectory.
        budget: executed calls, in total whatever the tool (upstream RL and ours 3), or by tag (upstream evaluation 3
            each; a tag that is not named has none).
        over_budget: what a call beyond the budget meets. `notice`: a result that says so, and the end if the model
            asks again. `end`: the trajectory ends with an end token that the policy did not draw but is trained on
            (upstream RL). `continue`: no answer, and no stop string any more (upstream evaluation).
        leading_space: put a space before `<result>` (upstream RL yes, upstream evaluation no).
        result_tokens: cap on one injected result in tokens, for all tools or by tag; longer ones lose their middle.
            None, or a tag that is not named: no cap (upstream).
    """

    max_response_tokens: int = 4096
    budget: int | Mapping[str, int] = 3
    over_budget: Literal["notice", "end", "continue"] = "notice"
    leading_space: bool = False
    result_tokens: int | Mapping[str, int] | None = 1024

    @classmethod
    def of(cls, tools: Mapping[str, Any], max_response_tokens: int) -> RolloutSettings:
        """The settings of a `tir.config.Tools` as JSON; training and evaluation both read them here."""
        names = ("budget", "over_budget", "leading_space", "result_tokens")
        return cls(max_response_tokens, **{name: tools[name] for name in names if name in tools})

    def allows(self, tag: str, answered: Mapping[str, int]) -> bool:
        """Whether one more call of a tag is within the budget."""
        if isinstance(self.budget, int):
            return sum(answered.values()) < self.budget
        return answered.get(tag, 0) < self.budget.get(tag, 0)

    def notice(self, tag: str, answered: Mapping[str, int], tags: Iterable[str]) -> str:
        """What a call of a tag beyond the budget is told, where tools of `tags` are there."""
        others = any(self.allows(other, answered) for other in tags)
        return TAG_NOTICE.format(tag=tag) if others else BUDGET_NOTICE

    def cap(self, tag: str) -> int | None:
        """Most tokens of a result of a tag, or None."""
        return self.result_tokens.get(tag) if isinstance(self.result_tokens, Mapping) else self.result_tokens


async def rollout(engine: Engine, tokenizer, prompt_ids: list[int], tools: Mapping[str, Tool],
                  settings: RolloutSettings, sampling: Sampling, request_id: str, helpers: Helpers | None = None) -> Trajectory:
    """Run one trajectory to its end.

    Args:
        engine: any `tir.engines.base.Engine`.
        tokenizer: the policy's tokenizer, for decoding model tokens and encoding tool text.
        prompt_ids: rendered chat prompt.
        tools: by tag; a tag without a tool is answered by a notice, which counts towards the budget.
        settings, sampling: limits and decoding.
        request_id: unique name of this trajectory, for the engine's prefix cache and logs.
        helpers: inference-time helpers; never in training, where the policy must have written what it is trained on.

    Raises:
        InfrastructureFault: a tool, a helper or the engine failed; the trajectory must be retried, not scored.
    """
    trajectory = Trajectory(executed=dict.fromkeys(tools, 0), emitted=dict.fromkeys(tools, 0))
    answered: Counter[str] = Counter()  # calls within the budget, by tag; those to a tool that is not there too
    started, stop = time.monotonic(), STOP_STRINGS
    told: set[str] = set()  # notices given, each once
    helping = helpers.begin(trajectory, tokenizer) if helpers else None
    for turn in itertools.count():
        drawing = await helping.before_turn(prompt_ids, sampling) if helping else sampling
        response = trajectory.response_ids
        left = settings.max_response_tokens - len(response)
        if left <= 0:
            trajectory.finish = "length"
            break
        completion = await engine.generate([*prompt_ids, *response], max_tokens=left, sampling=_of_turn(drawing, turn),
                                           stop=stop, request_id=request_id)
        text = tokenizer.decode(_without_end(completion, tokenizer), skip_special_tokens=False)
        trajectory.segments.append(Segment("model", text, list(completion.token_ids), list(completion.log_probs)))
        if completion.finish != "stop":
            trajectory.finish = "answer" if completion.finish == "eos" else "length"
            break
        call = tool_call(text)
        if call is None:
            continue  # a closing tag without an opening one: the model goes on writing
        trajectory.emitted[call.tool] = trajectory.emitted.get(call.tool, 0) + 1
        if settings.allows(call.tool, answered):
            answered[call.tool] += 1
            payload = await _run(call, tools, trajectory, helping)
            if payload is None:
                continue  # the call was rolled back: the model writes it anew
        elif settings.over_budget == "continue":
            stop = ()
            continue
        elif settings.over_budget == "end":
            if len(trajectory.response_ids) < settings.max_response_tokens:
                trajectory.segments.append(Segment("model", "", [tokenizer.eos_token_id], [0.0]))
            trajectory.finish = "budget"
            break
        elif (payload := settings.notice(call.tool, answered, tools)) in told:
            trajectory.finish = "budget"
            break
        else:
            told.add(payload)
        segment = tool_segment(tokenizer, payload, settings.cap(call.tool), leading_space=settings.leading_space)
        if len(segment.token_ids) >= settings.max_response_tokens - len(trajectory.response_ids):
            trajectory.finish = "length"
            break
        trajectory.segments.append(segment)
    trajectory.seconds = time.monotonic() - started
    return trajectory


async def _run(call: ToolCall, tools: Mapping[str, Tool], trajectory: Trajectory, helping) -> str | None:
    """Execute a call within the budget; None if a helper took it back."""
    if call.tool not in tools:
        return f"The {call.tool} tool is not available."
    result = await tools[call.tool].call(call.body)
    trajectory.executed[call.tool] += 1
    trajectory.tool_seconds += result.seconds
    if helping and result.status != "ok":
        result = await helping.after_failure(call, result, tools[call.tool])
    return None if result is None else result.text


def _of_turn(sampling: Sampling, turn: int) -> Sampling:
    """Another seed per turn: the same one would draw the same random numbers after every tool result."""
    return sampling if sampling.seed is None else replace(sampling, seed=request_seed(sampling.seed, turn))


def _without_end(completion: Completion, tokenizer) -> list[int]:
    """The ids without a closing control token, which is not part of the text."""
    ids = completion.token_ids
    return ids[:-1] if completion.finish == "eos" and ids and ids[-1] in tokenizer.all_special_ids else ids


def tool_segment(tokenizer, payload: str, most_tokens: int | None, *, leading_space: bool = False) -> Segment:
    """Encode a result; a payload that makes it longer than `most_tokens` loses its middle."""
    text = render_result(payload, leading_space=leading_space)
    ids = encode_tool_text(tokenizer, text)
    keep = len(payload) // 2
    while most_tokens is not None and len(ids) > most_tokens and keep:
        # Tokens per character vary along the text, so one cut in proportion may not do.
        keep = min(keep - 1, int(keep * most_tokens / len(ids)))
        text = render_result(f"{payload[:keep]}...{payload[len(payload) - keep:]}", leading_space=leading_space)
        ids = encode_tool_text(tokenizer, text)
    return Segment("tool", text, ids)
