"""The three helpers of Tool-Star, for one trajectory at a time (Tool-Star, inference-time tools)."""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tir.engines.base import Sampling
from tir.helping import Helping
from tir.protocol import Segment, ToolCall, encode_tool_text
from tir.service import Refused, Service
from tir.tools.base import Tool, ToolResult

REPAIR = ("This Python program fails.\n\n```python\n{code}\n```\n\nThe error:\n{error}\n\n"
          "Reply with the whole corrected program and nothing else.")
REFINE = ("A solution in progress has become too long. Rewrite it shorter: keep every fact, number, tool result and conclusion "
          "that the rest of the solution needs, drop repetitions and dead ends, add nothing and do not answer the question. "
          "Reply with the rewritten solution only.\n\n{text}")
_FENCE = re.compile(r"```(?:python)?[ \t]*\n(.*?)```", re.DOTALL)


class ToolStarHelpers:
    """Helpers that are configured; a name that is missing is off.

    Args:
        service: the OpenAI-compatible server.
        debugger, refiner: `{model, uses, max_tokens}`, the refiner also `{at_tokens}`.
        rollback: `{uses, temperature}`.
    """

    def __init__(self, service: Service, *, debugger: Mapping[str, Any] | None = None,
                 rollback: Mapping[str, Any] | None = None, refiner: Mapping[str, Any] | None = None):
        self.service = service
        self.settings = {"debugger": debugger, "rollback": rollback, "refiner": refiner}

    def begin(self, trajectory, tokenizer) -> Helping:
        """The helpers of one trajectory."""
        return _Session(self, trajectory, tokenizer)

    async def ask(self, settings: Mapping[str, Any], text: str) -> str:
        """One reply at temperature 0. Raises `HelperUnavailable`."""
        body = {"model": settings["model"], "messages": [{"role": "user", "content": text}], "temperature": 0.0, "seed": 0,
                "max_tokens": settings["max_tokens"]}
        try:
            return await self.service.post("/chat/completions", body, _content)
        except Refused as refused:
            raise self.service.fault(str(refused), "name a model the server has, and a reply length it allows") from None


def _content(answer: Any) -> str:
    content = answer["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content


class _Session:
    """See `tir.helping.Helping`."""

    def __init__(self, helpers: ToolStarHelpers, trajectory, tokenizer):
        self._helpers, self._trajectory, self._tokenizer = helpers, trajectory, tokenizer
        self._rolled_back = False
        self._used: Counter[str] = Counter()

    def _take(self, name: str) -> Mapping[str, Any] | None:
        """The settings of a helper that has uses left, and take one."""
        settings = self._helpers.settings[name]
        if settings is None or self._used[name] >= settings["uses"]:
            return None
        self._used[name] += 1
        return settings

    def _helped(self, name: str) -> None:
        """Count what changed the trajectory; a reply that could not be used has not."""
        self._trajectory.helped[name] = self._trajectory.helped.get(name, 0) + 1

    async def before_turn(self, prompt_ids: list[int], sampling: Sampling) -> Sampling:
        refiner = self._helpers.settings["refiner"]
        if refiner and len(self._trajectory.response_ids) >= refiner["at_tokens"] and self._take("refiner"):
            await self._refine(refiner)
        if not self._rolled_back:
            return sampling
        self._rolled_back = False
        return replace(sampling, temperature=max(sampling.temperature, self._helpers.settings["rollback"]["temperature"]))

    async def after_failure(self, call: ToolCall, result: ToolResult, tool: Tool) -> ToolResult | None:
        if call.tool == "python" and (settings := self._take("debugger")):
            reply = await self._helpers.ask(settings, REPAIR.format(code=call.body, error=result.text))
            fenced = _FENCE.findall(reply)
            code = fenced[-1] if fenced else reply
            if code.strip():  # no program would run without an error, and the model would not learn of its own
                result = await tool.call(code)
                self._trajectory.tool_seconds += result.seconds
                self._helped("debugger")
        if result.status != "ok" and self._take("rollback"):
            self._roll_back(call)
            self._helped("rollback")
            return None
        return result

    def _roll_back(self, call: ToolCall) -> None:
        """Cut the last segment before the line that holds the call, at a token; drop it if nothing is left."""
        segment = self._trajectory.segments.pop()
        start = segment.text.rfind(f"<{call.tool}>")
        cut = segment.text.rfind("\n", 0, start) + 1 or start
        # The most tokens whose text ends at the cut or before; a token across it goes.
        kept = bisect.bisect_right(range(len(segment.token_ids) + 1), cut,
                                   key=lambda count: len(self._decode(segment.token_ids[:count]))) - 1
        if kept:
            ids = segment.token_ids[:kept]
            self._trajectory.segments.append(Segment("model", self._decode(ids), ids, segment.log_probs[:kept]))
        self._rolled_back = True

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    async def _refine(self, settings: Mapping[str, Any]) -> None:
        """Put the other model's shorter text in the place of the response; the policy did not write it, so it is tool text."""
        text = "".join(segment.text for segment in self._trajectory.segments)
        reply = (await self._helpers.ask(settings, REFINE.format(text=text))).strip()
        ids = encode_tool_text(self._tokenizer, reply)
        if reply and len(ids) < len(self._trajectory.response_ids):
            self._trajectory.segments[:] = [Segment("tool", reply, ids)]
            self._helped("refiner")
