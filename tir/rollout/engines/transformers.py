"""A batched engine on transformers, which starts in seconds; for tiny models and small jobs.

Each waiting prompt is read by a forward pass of its own. Then all are decoded as one batch (left-padded key-value
cache). A row is finished at its own stop string, end token or length. Requests that arrive during a batch form the next
batch.

Which requests share a batch depends on when they arrive. In float32 on a CPU whose MKL has the mode that
`tir.common.environment` selects, a row's result does not depend on the other rows, to the last bit. This is why prompts
are not padded: with more than 256 keys MKL adds up the values of the attention in blocks, which padding would move.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from tir.common import linear
from tir.common.errors import CheckpointError, EngineFault
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.prompts import check_keeps_text, end_of_turn
from tir.rollout.protocol import decode

_ALIGN = 64  # padding moves keys by multiples of this, so that each stays in the same lane of a vector
_STOP_TAIL_TOKENS = 16  # last tokens decoded to find a stop string; every stop string has fewer tokens


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
        max_batch: maximum number of rows in a batch.
        device: torch device.
        dtype: name of a torch precision.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        max_batch: int,
        device: str,
        dtype: str,
    ):
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(model))
            self.model = AutoModelForCausalLM.from_pretrained(
                str(model), dtype=getattr(torch, dtype), attn_implementation="eager"
            )
            self.model.to(device).eval()
            linear.use_in(self.model)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                "cannot load model",
                where=str(model),
                why=str(error).splitlines()[0],
                remedy=f"rm -r {model}  # then run again to make it anew",
            ) from error
        check_keeps_text(self.tokenizer)
        self.max_batch, self.device = max_batch, device
        eos = self.model.generation_config.eos_token_id
        self.end_ids = {*(eos if isinstance(eos, list) else [eos]), self.tokenizer.eos_token_id}
        self.end_ids.add(end_of_turn(self.tokenizer).token_id)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.max_length = getattr(self.model.config, "max_position_embeddings", 1 << 30)
        self._waiting: list[_Request] = []
        self._worker: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")

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
            await asyncio.sleep(0.005)  # for more requests
            # Prompts of similar length share a batch, which keeps padding small.
            self._waiting.sort(key=lambda request: len(request.prompt_ids))
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
            try:
                completions = await loop.run_in_executor(self._thread, self._decode, batch)
            except Exception as error:  # noqa: BLE001  (any exception must reach every request of the batch)
                why = f"{type(error).__name__}: {error}"
                for request in batch:
                    if not request.future.done():  # the future of a cancelled trajectory is done
                        request.future.set_exception(EngineFault("the engine failed", where="transformers", why=why))
                continue
            for request, completion in zip(batch, completions, strict=True):
                if not request.future.done():
                    request.future.set_result(completion)

    @torch.inference_mode()
    def _decode(self, batch: list[_Request]) -> list[Completion]:
        """Decode a batch token by token until all rows are finished."""
        logits, cache = self._read([request.prompt_ids for request in batch])
        mask = torch.ones(len(batch), cache.get_seq_length(), dtype=torch.long, device=self.device)
        positions = torch.tensor([[len(request.prompt_ids)] for request in batch], device=self.device)
        for row, request in enumerate(batch):
            mask[row, : mask.shape[1] - len(request.prompt_ids)] = 0
        generators = [_generator(request.sampling, self.device) for request in batch]
        tokens: list[list[int]] = [[] for _ in batch]
        log_probs: list[list[float]] = [[] for _ in batch]
        finish: list[str | None] = [None] * len(batch)
        while True:
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
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
            output = self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
            positions = positions + 1

    def _read(self, prompts: list[list[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """Logits (rows, vocabulary) of the next tokens, and the left-padded key-value cache of the prompts."""
        outputs = [
            self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=True, logits_to_keep=1)
            for ids in prompts
        ]
        width = -(-max(map(len, prompts)) // _ALIGN) * _ALIGN

        def padded(rows: list[torch.Tensor]) -> torch.Tensor:  # each (1, heads, length, size of a head)
            return torch.cat([functional.pad(each, (0, 0, width - each.shape[2], 0)) for each in rows])

        layers = zip(*(output.past_key_values.layers for output in outputs), strict=True)
        states = [(padded([row.keys for row in rows]), padded([row.values for row in rows])) for rows in layers]
        return torch.cat([output.logits[:, -1] for output in outputs]).float(), DynamicCache(states)

    def _finish(self, request: _Request, tokens: list[int]) -> str | None:
        if tokens[-1] in self.end_ids:
            return "eos"
        if request.stop:
            tail = decode(self.tokenizer, tokens[-_STOP_TAIL_TOKENS:])
            last = len(decode(self.tokenizer, tokens[-1:]))
            # Only a stop string completed by the newest token counts; an earlier one would have ended the row before.
            if any(tail.find(stop, max(0, len(tail) - last - len(stop) + 1)) >= 0 for stop in request.stop):
                return "stop"
        return "length" if len(tokens) >= request.max_tokens else None

    async def close(self) -> None:
        """Wait for the current batch and stop the thread."""
        if self._worker:
            await self._worker
        self._thread.shutdown()


def _generator(sampling: Sampling, device: str) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    generator = torch.Generator(device)
    generator.manual_seed(sampling.seed if sampling.seed is not None else torch.seed())
    return generator


def _draw(logits: torch.Tensor, request: _Request, generated: list[int], generator) -> tuple[int, float]:
    """Draw one token; returns it and its log-probability under the sampling distribution.

    Args:
        logits: (vocabulary,).
        request: the row's prompt and sampling.
        generated: the row's ids so far.
        generator: the row's random generator; None for greedy decoding.
    """
    sampling = request.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt_ids, *generated}), device=logits.device)
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
