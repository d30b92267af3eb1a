"""Tool-Star's debugger, rollback and refiner; see `tir.rollout.helpers`."""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tir.common.http import Refused, Service
from tir.rollout.engines.base import Sampling
from tir.rollout.helpers.base import TrajectoryHelper
from tir.rollout.protocol import Segment, ToolCall, decode, encode_tool_text
from tir.tools.base import Tool, ToolResult

if TYPE_CHECKING:
    from tir.config.evaluation import HelperConfig, HelpersConfig

REPAIR = (
    "This Python program fails.\n\n```python\n{code}\n```\n\nThe error:\n{error}\n\n"
    "Reply with the whole corrected program and nothing else."
)
REFINE = (
    "A solution in progress has become too long. Rewrite it shorter: keep every fact, number, tool result and "
    "conclusion that the rest of the solution needs, drop repetitions and dead ends, add nothing and do not answer the "
    "question. Reply with the rewritten solution only.\n\n{text}"
)
_FENCE = re.compile(r"```(?:python)?[ \t]*\n(.*?)```", re.DOTALL)


class ToolStarHelpers:
    """The configured helpers.

    Args:
        services: the OpenAI-compatible server of each model that a helper asks, by the model's name.
        settings: the section `evaluation.helpers`; a helper that is None is off.
    """

    def __init__(self, services: Mapping[str, Service], settings: HelpersConfig):
        self.services, self.settings = services, settings

    def begin(self, trajectory, tokenizer) -> TrajectoryHelper:
        """The helpers of one trajectory."""
        return _Session(self, trajectory, tokenizer)

    async def ask(self, settings: HelperConfig, text: str) -> str:
        """One reply at temperature 0. Raises `HelperUnavailable`."""
        service = self.services[settings.model]
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0.0,
            "seed": 0,
            "max_tokens": settings.max_tokens,
        }
        try:
            return await service.post("/chat/completions", body, _content)
        except Refused as refused:
            raise service.fault(
                str(refused), "configure a model that the server has, and a `max_tokens` that it accepts"
            ) from None


def _content(answer: Any) -> str:
    content = answer["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content


class _Session:
    """See `tir.rollout.helpers.base.TrajectoryHelper`."""

    def __init__(self, helpers: ToolStarHelpers, trajectory, tokenizer):
        self._helpers, self._trajectory, self._tokenizer = helpers, trajectory, tokenizer
        self._rolled_back = False
        self._used: Counter[str] = Counter()

    def _use(self, name: str) -> Any:
        """Count one use of a helper and return its settings; None if it is off or has no uses left."""
        settings = getattr(self._helpers.settings, name)
        if settings is None or self._used[name] >= settings.uses:
            return None
        self._used[name] += 1
        return settings

    def _count_change(self, name: str) -> None:
        """Count a change of the trajectory by a helper; a reply that was not usable is no change."""
        self._trajectory.helped[name] = self._trajectory.helped.get(name, 0) + 1

    async def before_turn(self, prompt_ids: list[int], sampling: Sampling) -> Sampling:
        refiner = self._helpers.settings.refiner
        if refiner and len(self._trajectory.response_ids) >= refiner.at_tokens and self._use("refiner"):
            await self._refine(refiner)
        if not self._rolled_back:
            return sampling
        self._rolled_back = False
        return replace(sampling, temperature=max(sampling.temperature, self._helpers.settings.rollback.temperature))

    async def after_failure(self, call: ToolCall, result: ToolResult, tool: Tool) -> ToolResult | None:
        if call.tool == "python" and (settings := self._use("debugger")):
            reply = await self._helpers.ask(settings, REPAIR.format(code=call.body, error=result.text))
            fenced = _FENCE.findall(reply)
            code = fenced[-1] if fenced else reply
            if code.strip():  # an empty program would run without error and hide the model's own error
                result = await tool.call(code)
                self._trajectory.tool_seconds += result.seconds
                self._count_change("debugger")
        if result.status != "ok" and self._use("rollback"):
            self._roll_back(call)
            self._count_change("rollback")
            return None
        return result

    def _roll_back(self, call: ToolCall) -> None:
        """Remove the line with the call (without a line break before it, the call alone) from the last segment.

        An empty segment is dropped.
        """
        segment = self._trajectory.segments.pop()
        start = segment.text.rfind(f"<{call.tool}>")
        cut = segment.text.rfind("\n", 0, start) + 1 or start
        # Largest number of tokens whose text ends at or before the cut; a token that spans it is removed.
        kept = (
            bisect.bisect_right(
                range(len(segment.token_ids) + 1), cut, key=lambda count: len(self._decode(segment.token_ids[:count]))
            )
            - 1
        )
        if kept:
            ids = segment.token_ids[:kept]
            self._trajectory.segments.append(Segment("model", self._decode(ids), ids, segment.log_probs[:kept]))
        self._rolled_back = True

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids)

    async def _refine(self, settings: HelperConfig) -> None:
        """Replace the response by the other model's shorter text, as a tool segment: the policy did not write it."""
        text = "".join(segment.text for segment in self._trajectory.segments)
        reply = (await self._helpers.ask(settings, REFINE.format(text=text))).strip()
        ids = encode_tool_text(self._tokenizer, reply)
        if reply and len(ids) < len(self._trajectory.response_ids):
            self._trajectory.segments[:] = [Segment("tool", reply, ids)]
            self._count_change("refiner")
