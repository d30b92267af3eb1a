"""A batched engine on plain transformers: seconds to start, for tiny models and small jobs.

Requests that wait together are decoded together (left-padded, with a key-value cache). A row leaves the batch at its
own stop string, end token or length; rows that arrive later form the next batch.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tir.engines.base import Completion, Sampling
from tir.errors import CheckpointError, EngineFault

_STOP_TAIL_TOKENS = 16  # tokens decoded to look for a stop string; every stop string is shorter than that


@dataclass
class _Request:
    prompt_ids: list[int]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    future: asyncio.Future


class TransformersEngine:
    """One model in this process.

    Args:
        model: Hugging Face directory.
        max_batch: rows decoded at once.
        collect_s: how long to wait for more requests before a batch starts, in seconds.
        device, dtype: where and in what precision.
    """

    def __init__(self, model: str | Path, *, max_batch: int = 64, collect_s: float = 0.005, device: str = "cpu",
                 dtype: str = "float32", **_ignored):
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(model))
            self.model = AutoModelForCausalLM.from_pretrained(str(model), dtype=getattr(torch, dtype)).to(device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError("cannot load model", where=str(model), why=str(error).splitlines()[0],
                                  remedy=f"rm -r {model}  # then run again; it is made anew") from error
        self.max_batch, self.collect_s, self.device = max_batch, collect_s, device
        eos = self.model.generation_config.eos_token_id
        self.end_ids = set(eos if isinstance(eos, list) else [eos]) | {self.tokenizer.eos_token_id}
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.max_length = getattr(self.model.config, "max_position_embeddings", 1 << 30)
        self._waiting: list[_Request] = []
        self._worker: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling,
                       stop: tuple[str, ...] = (), request_id: str = "") -> Completion:
        """Continue one prompt; see `Engine`."""
        room = self.max_length - len(prompt_ids)
        if room <= 0:
            return Completion([], [], "length")
        loop = asyncio.get_running_loop()
        request = _Request(prompt_ids, min(max_tokens, room), sampling, stop, loop.create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await request.future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self.collect_s)
            # Rows of one length class share a batch: padding is then a small part of the work.
            self._waiting.sort(key=lambda request: len(request.prompt_ids))
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
            try:
                completions = await loop.run_in_executor(self._thread, self._decode, batch)
            except Exception as error:  # noqa: BLE001  (whatever it is, every row of the batch waits to hear of it)
                why = f"{type(error).__name__}: {error}"
                for request in batch:
                    if not request.future.done():  # one whose trajectory was cancelled takes no more
                        request.future.set_exception(EngineFault("the engine failed", where="transformers", why=why))
                continue
            for request, completion in zip(batch, completions, strict=True):
                if not request.future.done():
                    request.future.set_result(completion)

    @torch.inference_mode()
    def _decode(self, batch: list[_Request]) -> list[Completion]:
        """Decode a batch row by row until all rows are done."""
        width = max(len(request.prompt_ids) for request in batch)
        ids = torch.full((len(batch), width), self.pad_id, dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        generators = [_generator(request.sampling, self.device) for request in batch]
        tokens: list[list[int]] = [[] for _ in batch]
        log_probs: list[list[float]] = [[] for _ in batch]
        finish: list[str | None] = [None] * len(batch)
        cache, step_ids = None, ids
        while True:
            output = self.model(input_ids=step_ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                                use_cache=True, logits_to_keep=1)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            chosen = torch.full((len(batch),), self.pad_id, dtype=torch.long, device=self.device)
            for row, request in enumerate(batch):
                if finish[row]:
                    continue
                token, log_prob = _draw(logits[row], request, tokens[row], generators[row])
                tokens[row].append(token)
                log_probs[row].append(log_prob)
                chosen[row] = token
                finish[row] = self._finish(request, tokens[row])
            if all(finish):
                return [Completion(*parts) for parts in zip(tokens, log_probs, finish, strict=True)]
            step_ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _finish(self, request: _Request, tokens: list[int]) -> str | None:
        if tokens[-1] in self.end_ids:
            return "eos"
        if request.stop:
            tail = self.tokenizer.decode(tokens[-_STOP_TAIL_TOKENS:])
            last = len(self.tokenizer.decode(tokens[-1:]))
            # Only a stop string completed by the newest token counts; earlier ones were seen in their own turn.
            if any(tail.find(stop, max(0, len(tail) - last - len(stop) + 1)) >= 0 for stop in request.stop):
                return "stop"
        return "length" if len(tokens) >= request.max_tokens else None

    async def close(self) -> None:
        """Let the current batch end and free the thread."""
        if self._worker:
            await self._worker
        self._thread.shutdown()


def _generator(sampling: Sampling, device: str) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    generator = torch.Generator(device)
    generator.manual_seed(sampling.seed if sampling.seed is not None else torch.seed())
    return generator


def _draw(logits: torch.Tensor, request: _Request, written: list[int], generator) -> tuple[int, float]:
    """Draw one token; returns it and its log-probability under the sampling distribution."""
    sampling = request.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt_ids, *written}), device=logits.device)
        values = logits[seen]
        scaled = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        logits = logits.index_copy(0, seen, scaled)
    if sampling.temperature == 0:
        token = int(logits.argmax())
        return token, float(logits.log_softmax(-1)[token])
    log_probabilities = (logits / sampling.temperature).log_softmax(-1)
    if sampling.top_p < 1.0:
        ordered, order = log_probabilities.sort(descending=True)
        outside = ordered.exp().cumsum(-1) - ordered.exp() >= sampling.top_p
        log_probabilities = log_probabilities.index_fill(0, order[outside], -torch.inf).log_softmax(-1)
    token = int(torch.multinomial(log_probabilities.exp(), 1, generator=generator))
    return token, float(log_probabilities[token])
