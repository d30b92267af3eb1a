"""A scripted engine and a scripted tool, for tests of the rollout loop."""

import asyncio

from support.qwen_like import qwen_like_tokenizer

from tir.config.tools import Tools
from tir.rollout.engines.base import Completion
from tir.rollout.loop import RolloutSettings
from tir.rollout.protocol import STOP_STRINGS
from tir.tools.base import ToolResult

CALL = "<think>t</think><python>print(1)</python>"
ANSWER = r"<answer>\boxed{1}</answer><|im_end|>"


def limits(max_response_tokens: int = 4096, **tools) -> RolloutSettings:
    """Rollout settings that differ from the default configuration in some keys of `tools`."""
    return RolloutSettings(Tools(**tools), max_response_tokens)


class Script:
    """An engine that generates the given turns in order, for every trajectory; the last turn repeats."""

    def __init__(self, *turns: str, seconds: float = 0.0, stops=()):
        self.turns, self.seconds, self.stops, self.prompts = turns, seconds, stops, {}

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        prompts = self.prompts.setdefault(request_id, [])
        if prompts and list(prompt_ids) == prompts[0]:
            prompts.clear()  # a retried trajectory starts over
        assert stop == (self.stops[len(prompts)] if self.stops else STOP_STRINGS)
        text = self.turns[min(len(prompts), len(self.turns) - 1)]
        prompts.append(list(prompt_ids))
        await asyncio.sleep(self.seconds)
        ids = qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"][:max_tokens]
        finish = "length" if len(ids) == max_tokens else "eos" if text.endswith("<|im_end|>") else "stop"
        return Completion(ids, [-0.5] * len(ids), finish)

    async def close(self):
        pass


class Echo:
    """A tool that returns `text` after `seconds`; its first `faults` calls raise `fault`, if given."""

    def __init__(self, text="1", seconds=0.0, fault=None, faults=10**9):
        self.text, self.seconds, self.fault, self.faults, self.calls = text, seconds, fault, faults, []

    async def call(self, body):
        self.calls.append(body)
        await asyncio.sleep(self.seconds)
        if self.fault and len(self.calls) <= self.faults:
            raise self.fault
        return ToolResult(self.text, "ok", self.seconds)
