"""What an engine is: token ids in, token ids out, one request at a time, many in flight."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass, in (0, 1].
        repetition_penalty: 1.0 is none; upstream's evaluation uses 1.1 over prompt and output.
        seed: seed of the request, or None.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None


def request_seed(seed: int, *names: int | str) -> int:
    """Seed of what the names stand for: a trajectory of an item, a turn of a trajectory.

    A digest and no sum: with sums all items would draw the same numbers, and one sample's turn those of another. The same in
    every process.
    """
    text = ":".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") % 2**31


@dataclass(frozen=True)
class Completion:
    """One continuation.

    Attributes:
        token_ids: the ids the engine produced, up to and including the token that completes a stop string or ends
            the text. They reach the trainer unchanged.
        log_probs: log-probability of each id under the sampling policy; empty if the engine was not asked.
        finish: `stop` (a stop string), `eos`, or `length`.
    """

    token_ids: list[int]
    log_probs: list[float] = field(default_factory=list)
    finish: Literal["stop", "eos", "length"] = "length"


class Engine(Protocol):
    """Generates continuations; raises `EngineFault` when the engine itself failed."""

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, sampling: Sampling,
                       stop: tuple[str, ...], request_id: str) -> Completion: ...

    async def close(self) -> None: ...
