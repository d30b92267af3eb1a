"""The vLLM engine: continuous batching, for GPUs and for jobs of many prompts."""

from __future__ import annotations

import os
from pathlib import Path

from tir.common.errors import EngineFault
from tir.common.records import read_json
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.prompts import check_keeps_text, end_of_turn

# vLLM does not start if one sequence of the longest context does not fit: 39 GB for the 262,144 tokens of Qwen3-4B.
LONGEST_CONTEXT = 32768  # tokens; Qwen2.5's
_CPU_CACHE_BYTES = 1 << 30  # vLLM would reserve the same share of the machine's memory as of a GPU's


def longest_context(model: str | Path) -> int | None:
    """LONGEST_CONTEXT for a model whose own context is longer; None for the others, of which vLLM takes their own."""
    own = read_json(Path(model, "config.json")).get("max_position_embeddings") or 0
    return LONGEST_CONTEXT if own > LONGEST_CONTEXT else None


class VllmEngine:
    """One asynchronous vLLM engine in this process.

    Args:
        model: Hugging Face directory.
        device: `cpu`, or the GPU's. On a GPU decoding replays CUDA graphs, which vLLM records when it starts; a small
            model then does not wait for its kernels to be launched one by one. A CPU gains nothing from compiling.
        dtype: precision; use `float32` on a CPU.
        batch_invariant: use vLLM's batch-invariant kernels (GPU only).
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str,
        dtype: str,
        batch_invariant: bool = False,
    ):
        if batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"  # vLLM has no other switch
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.tokenizer = AutoTokenizer.from_pretrained(str(model))
        check_keeps_text(self.tokenizer)
        self._turn_end = end_of_turn(self.tokenizer).token_id
        try:
            self._engine = AsyncLLM.from_engine_args(
                AsyncEngineArgs(
                    model=str(model),
                    dtype=dtype,
                    max_model_len=longest_context(model),
                    enforce_eager=device == "cpu",
                    seed=0,
                    gpu_memory_utilization=0.9,
                    kv_cache_memory_bytes=_CPU_CACHE_BYTES if device == "cpu" else None,
                )
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineFault("vLLM did not start", where=str(model), why=str(error).splitlines()[0]) from error
        self.max_length = self._engine.model_config.max_model_len

    async def generate(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop: tuple[str, ...] = (),
        request_id: str = "",
    ) -> Completion:
        """Continue one prompt; see `Engine`."""
        from uuid import uuid4

        from vllm import SamplingParams, TokensPrompt

        room = self.max_length - len(prompt_ids)
        if room <= 0:
            return Completion([], [], "length")
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(stop) or None,
            stop_token_ids=[self._turn_end],
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(max_tokens, room),
            logprobs=0,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
        )
        final = None
        try:
            # vLLM rejects a repeated request id, and a trajectory sends one request per turn.
            async for final in self._engine.generate(
                TokensPrompt(prompt_token_ids=prompt_ids), params, f"{request_id}-{uuid4().hex[:8]}"
            ):
                pass
        except Exception as error:  # the engine process died or rejected the request
            raise EngineFault("vLLM failed", where=request_id, why=str(error)) from error
        output = final.outputs[0]
        if output.finish_reason not in ("stop", "length"):
            raise EngineFault(
                "vLLM aborted a request", where=request_id, why=f"its finish reason is {output.finish_reason!r}"
            )
        log_probs = [entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)]
        finish = (
            "length" if output.finish_reason == "length" else "stop" if isinstance(output.stop_reason, str) else "eos"
        )
        return Completion(list(output.token_ids), log_probs, finish)

    async def close(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()
