"""verl's rollout server behind the engine interface of the rollout loop."""

from __future__ import annotations

import time
from typing import Any

from tir.engines.base import Completion, Sampling
from tir.errors import EngineFault

_STOP_TAIL_TOKENS = 16  # a stop string is shorter than that


class ServerEngine:
    """verl's rollout server as a `tir` engine, for one trajectory; remembers what the server added.

    Args:
        client: verl's `LLMServerClient`.
        tokenizer: the policy's.
        end_ids: ids that end a text.
    """

    def __init__(self, client, tokenizer, end_ids: set[int]):
        self.client, self.tokenizer, self.end_ids = client, tokenizer, end_ids
        self.seconds, self.extra_fields = 0.0, {}

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, stop: tuple[str, ...],
                       request_id: str) -> Completion:
        """Continue one prompt; see `tir.engines.base.Engine`."""
        parameters = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": -1, "max_tokens": max_tokens,
            "repetition_penalty": sampling.repetition_penalty, "logprobs": True, "stop": list(stop),
            "include_stop_str_in_output": True, "skip_special_tokens": False,
            "seed": sampling.seed,
        }
        started = time.monotonic()
        try:
            output = await self.client.generate(request_id=request_id, prompt_ids=prompt_ids, sampling_params=parameters)
        except Exception as error:  # Ray or vLLM; never the model's fault
            raise EngineFault("the rollout server failed", where=request_id, why=str(error).strip()[-500:]) from error
        self.seconds += time.monotonic() - started
        if output.stop_reason == "aborted":
            raise EngineFault("the rollout server aborted a request", where=request_id)
        self._remember(output.extra_fields)
        ids = list(output.token_ids)
        return Completion(ids, list(output.log_probs), self._finish(ids, max_tokens, stop))

    def _remember(self, fields: dict[str, Any]) -> None:
        # Versions of the weights a trajectory was generated with: the first turn's and the last turn's.
        first = self.extra_fields.get("min_global_steps", fields.get("min_global_steps"))
        self.extra_fields |= {**fields, "min_global_steps": first}

    def _finish(self, ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> str:
        """Why the engine stopped; verl's answer does not say."""
        if ids and ids[-1] in self.end_ids:
            return "eos"
        tail = self.tokenizer.decode(ids[-_STOP_TAIL_TOKENS:], skip_special_tokens=False)
        if any(string in tail for string in stop):
            return "stop"
        return "length" if len(ids) >= max_tokens else "eos"


def end_ids(tokenizer) -> set[int]:
    """Ids that end a text: the tokenizer's end and, for Qwen2.5, its padding token (`<|endoftext|>`)."""
    return {tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
