"""Engine of the rollout loop that generates with verl's rollout server."""

from __future__ import annotations

import time
from typing import Any

from tir.common.errors import EngineFault
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.prompts import end_of_turn
from tir.rollout.protocol import decode

_STOP_TAIL_TOKENS = 16  # every stop string has fewer tokens


class ServerEngine:
    """Generates the turns of one trajectory with verl's rollout server.

    Args:
        client: verl's `LLMServerClient`.
        tokenizer: the policy's tokenizer; its chat template defines the token that ends a turn.

    Attributes:
        seconds: time spent generating.
        extra_fields: extra fields of the server's responses; verl expects them in the trajectory.
    """

    def __init__(self, client, tokenizer):
        self.client, self.tokenizer = client, tokenizer
        self.turn_end = end_of_turn(tokenizer).token_id
        # Qwen2.5 also ends a text with its padding token (<|endoftext|>).
        self.end_ids = {self.turn_end, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
        self.seconds, self.extra_fields = 0.0, {}

    async def generate(
        self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, stop: tuple[str, ...], request_id: str
    ) -> Completion:
        """Continue one prompt; see `tir.rollout.engines.base.Engine`."""
        parameters = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "max_tokens": max_tokens,
            "repetition_penalty": sampling.repetition_penalty,
            "logprobs": True,
            "stop": list(stop),
            "stop_token_ids": [self.turn_end],
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "seed": sampling.seed,
        }
        started = time.monotonic()
        try:
            output = await self.client.generate(
                request_id=request_id, prompt_ids=prompt_ids, sampling_params=parameters
            )
        except Exception as error:  # errors of Ray or vLLM; the model's output causes none
            raise EngineFault("the rollout server failed", where=request_id, why=str(error).strip()[-500:]) from error
        self.seconds += time.monotonic() - started
        if output.stop_reason == "aborted":
            raise EngineFault("the rollout server aborted a request", where=request_id)
        self._remember(output.extra_fields)
        ids = list(output.token_ids)
        return Completion(ids, list(output.log_probs), self._finish(ids, max_tokens, stop))

    def _remember(self, fields: dict[str, Any]) -> None:
        # Step of the weights that generated the trajectory: minimum of the first turn, maximum of the last.
        first = self.extra_fields.get("min_global_steps", fields.get("min_global_steps"))
        self.extra_fields |= {**fields, "min_global_steps": first}

    def _finish(self, ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> str:
        """Reason why the engine stopped, derived from the tokens, because verl's response does not contain it."""
        if ids and ids[-1] in self.end_ids:
            return "eos"
        tail = decode(self.tokenizer, ids[-_STOP_TAIL_TOKENS:])
        if any(string in tail for string in stop):
            return "stop"
        return "length" if len(ids) >= max_tokens else "eos"
