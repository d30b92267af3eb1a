"""A byte-level BPE tokenizer from a file of ranks in tiktoken's format, such as Qwen2.5's.

The file has one token per line, in base64, and its rank, which is also its id. `tokenizers` needs merges instead: the
two parts of a token are what is left when it is encoded with the tokens of lower ranks only.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path

from tir.common.errors import DataError

# The control tokens that follow the ranks of Qwen2.5, in the order of their ids: 151643, 151644, 151645.
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def read_ranks(path: str | Path) -> dict[bytes, int]:
    """Token -> rank; raises `DataError` unless the ranks are 0, 1, 2, ..., in this order."""
    ranks: dict[bytes, int] = {}
    try:
        for line in Path(path).read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (OSError, ValueError) as error:
        raise DataError(
            "cannot read the tokenizer's ranks",
            where=str(path),
            why=str(error),
            remedy="make rehearsal  # installs Qwen2.5's; or tiny_model: {ranks: null}, to train one",
        ) from None
    if list(ranks.values()) != list(range(len(ranks))):
        raise DataError("not a file of ranks", where=str(path), why="the ranks are not 0, 1, 2, ...")
    return ranks


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges of a byte-level BPE, in the order of their ranks."""
    return [_parts(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1]


def _parts(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last two parts of a token before its own merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [(ranks.get(first + second, rank), at) for at, (first, second) in enumerate(pairwise(parts))]
        lowest, at = min(found)
        if lowest >= rank:
            raise DataError("not a file of ranks", where=f"rank {rank}", why=f"no merges lead to {token!r}")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def tokenizer_of(path: str | Path):
    """A `tokenizers.Tokenizer` with these ranks and `CONTROLS` as special tokens, without a pre-tokenizer."""
    from tokenizers import AddedToken, Tokenizer, models
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ranks, letters = read_ranks(path), bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {text(token): rank for token, rank in ranks.items()}
    merges = [(text(first), text(second)) for first, second in merges_of(ranks)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROLS])
    return tokenizer
