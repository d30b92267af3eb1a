"""The interface of generation engines: token ids in, token ids out; one prompt per request, many requests at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """Decoding parameters.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: nucleus probability, in (0, 1].
        repetition_penalty: 1.0 is none; upstream's evaluation uses 1.1 over prompt and output.
        seed: seed of the request, or None for a random one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None


def request_seed(seed: int, *names: int | str) -> int:
    """Derive a seed from `seed` and names: (item id, sample) for a trajectory, (turn,) for a turn of it.

    A digest, not a sum: sums would give different samples and turns the same seed. Equal in every process.
    """
    text = ":".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") % 2**31


@dataclass(frozen=True)
class Completion:
    """One continuation.

    Attributes:
        token_ids: the generated ids, including the token that completes a stop string or ends the text. The trainer
            gets them unchanged.
        log_probs: log-probability of each id; empty if not requested. Of verl and `transformers` under the sampling
            distribution; of vLLM before temperature and penalty, which nothing reads.
        finish: `stop` (a stop string), `eos`, or `length`.
    """

    token_ids: list[int]
    log_probs: list[float] = field(default_factory=list)
    finish: Literal["stop", "eos", "length"] = "length"


class Engine(Protocol):
    """Generates continuations; raises `EngineFault` if the engine fails."""

    async def generate(
        self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling, stop: tuple[str, ...], request_id: str
    ) -> Completion: ...

    async def close(self) -> None: ...
