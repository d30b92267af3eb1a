"""The vLLM engine: continuous batching, for GPUs and for jobs of many prompts."""

from __future__ import annotations

from pathlib import Path

from tir.engines.base import Completion, Sampling
from tir.errors import EngineFault


class VllmEngine:
    """One asynchronous vLLM engine in this process.

    Args:
        model: Hugging Face directory.
        dtype: precision; CPUs want `float32`.
        max_model_len: context length in tokens; None takes the model's.
        gpu_memory_utilization: share of GPU memory vLLM may take (ignored on a CPU).
        tensor_parallel_size: GPUs that share the model.
    """

    def __init__(self, model: str | Path, *, dtype: str = "bfloat16", max_model_len: int | None = None,
                 gpu_memory_utilization: float = 0.9, tensor_parallel_size: int = 1, **_ignored):
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.tokenizer = AutoTokenizer.from_pretrained(str(model))
        self.max_length = max_model_len
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(
                model=str(model), dtype=dtype, max_model_len=max_model_len, enforce_eager=True, seed=0,
                gpu_memory_utilization=gpu_memory_utilization, tensor_parallel_size=tensor_parallel_size))
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineFault("vLLM did not start", where=str(model), why=str(error).splitlines()[0]) from error
        self.max_length = self._engine.model_config.max_model_len

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling,
                       stop: tuple[str, ...] = (), request_id: str = "") -> Completion:
        """Continue one prompt; see `Engine`."""
        from uuid import uuid4

        from vllm import SamplingParams, TokensPrompt

        room = self.max_length - len(prompt_ids)
        if room <= 0:
            return Completion([], [], "length")
        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed, stop=list(stop) or None,
            repetition_penalty=sampling.repetition_penalty, max_tokens=min(max_tokens, room), logprobs=0,
            include_stop_str_in_output=True, skip_special_tokens=False)
        final = None
        try:
            # vLLM refuses a repeated request id; a trajectory calls once per turn.
            async for final in self._engine.generate(TokensPrompt(prompt_token_ids=prompt_ids), params,
                                                     f"{request_id}-{uuid4().hex[:8]}"):
                pass
        except Exception as error:  # the engine process died or refused; never the model's fault
            raise EngineFault("vLLM failed", where=request_id, why=str(error)) from error
        output = final.outputs[0]
        if output.finish_reason not in ("stop", "length"):
            raise EngineFault("vLLM broke a request off", where=request_id, why=f"it ended with {output.finish_reason!r}")
        log_probs = [entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)]
        finish = "length" if output.finish_reason == "length" else "stop" if isinstance(output.stop_reason, str) else "eos"
        return Completion(list(output.token_ids), log_probs, finish)

    async def close(self) -> None:
        """Shut the engine's processes down."""
        self._engine.shutdown()
