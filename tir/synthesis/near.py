"""Near-duplicate questions: MinHash signatures find candidates, the exact Jaccard similarity decides.

No environment of this workflow has a library for it (datasketch and the like), and numpy does it in a few lines. Two
questions with different numbers are never duplicates: they have different answers.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict

import numpy as np

from tir.data.validation import fold

BANDS, ROWS = 32, 4  # candidates share a band of 4 hashes; of pairs at a similarity of 0.8, fewer than 1 in 10^7 do not
_WORDS = 3  # in a sequence
_PRIME = (1 << 31) - 1


class NearDuplicates:
    """Questions so far, and whether a further one is nearly the same as one of them.

    Args:
        threshold: Jaccard similarity of the sets of three-word sequences from which on two questions count as one.
    """

    def __init__(self, threshold: float):
        random = np.random.default_rng(0)  # the hash functions only choose the candidates
        self._threshold = threshold
        self._factors = random.integers(1, _PRIME, BANDS * ROWS, dtype=np.int64)
        self._terms = random.integers(0, _PRIME, BANDS * ROWS, dtype=np.int64)
        self._bands: defaultdict[tuple, list[int]] = defaultdict(list)
        self._seen: list[tuple[frozenset[str], tuple[str, ...], str]] = []

    def like(self, question: str) -> str | None:
        """The name of an earlier question that this one nearly equals, or None."""
        sequences, numbers = _sequences(question), _numbers(question)
        candidates = {number for band in self._signature(sequences) for number in self._bands.get(band, ())}
        for number in sorted(candidates):
            others, other_numbers, name = self._seen[number]
            if numbers == other_numbers and len(sequences & others) >= self._threshold * len(sequences | others):
                return name
        return None

    def add(self, question: str, name: str) -> None:
        """Store a question under a name."""
        sequences = _sequences(question)
        for band in self._signature(sequences):
            self._bands[band].append(len(self._seen))
        self._seen.append((sequences, _numbers(question), name))

    def _signature(self, sequences: frozenset[str]) -> list[tuple]:
        hashes = np.array([_hash(each) for each in sequences], dtype=np.int64)
        smallest = ((self._factors[:, None] * hashes + self._terms[:, None]) % _PRIME).min(axis=1)
        return [(band, *smallest[band * ROWS : (band + 1) * ROWS].tolist()) for band in range(BANDS)]


def _sequences(question: str) -> frozenset[str]:
    words = fold(question).split()
    last = max(1, len(words) - _WORDS + 1)
    return frozenset(" ".join(words[start : start + _WORDS]) for start in range(last))


def _numbers(question: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", question))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % _PRIME
