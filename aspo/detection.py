r"""Structural features of trajectories: which actions, in which order, and where the first tool call stands.

The action sequence is every opening tag `<think> <python> <search> <answer>` in the policy's own text, in order. Tags
are several tokens in Qwen2.5 and merge with their neighbours (`><`, `>\n`, `.</`), so tags are found in text, never
by token id. A tag inside a tool result, split over a tool boundary, or cut off by truncation does not count.

Two readers give the same features:

    detect_structural_features   (B, L) token ids and mask, as a trainer has them
    features_from_segments       text by author, as a trace record has it

Cost of the tensor reader: one table look-up per policy token, then work per token that can begin a tag (a handful per
trajectory). It grows linearly in B * L; no text is decoded, except for rows whose tokens do not each hold whole UTF-8
characters, which are decoded once.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch

_ACTION = re.compile(r"<(think|python|search|answer)>")
_ACTION_BYTES = re.compile(rb"<(think|python|search|answer)>")
_OPENINGS = (b"<think>", b"<python>", b"<search>", b"<answer>")
_LONGEST = max(map(len, _OPENINGS))


@dataclass(frozen=True)
class StructuralFeatures:
    """Features of B trajectories, each field a (B,) tensor.

    Attributes:
        ends_python_answer: bool; the last two actions are python, answer.
        has_python_think: bool; some two consecutive actions are python, think.
        first_tool_offset: int64; characters of policy text before the first `<python>` or `<search>`, -1 if none.
        policy_chars: int64; characters of policy text.
        n_python, n_search: int64; opening tags of each tool.
    """

    ends_python_answer: torch.Tensor
    has_python_think: torch.Tensor
    first_tool_offset: torch.Tensor
    policy_chars: torch.Tensor
    n_python: torch.Tensor
    n_search: torch.Tensor

    def to(self, device) -> StructuralFeatures:
        """The same features on another device."""
        return StructuralFeatures(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __len__(self) -> int:
        return len(self.policy_chars)


def _collect(found: list[list[tuple[str, int]]], chars: list[int]) -> StructuralFeatures:
    """Features from each row's (action, character offset) pairs and text length."""
    ends, rethinks, offsets, python, search = [], [], [], [], []
    for row in found:
        names = [name for name, _ in row]
        ends.append(names[-2:] == ["python", "answer"])
        rethinks.append(any(pair == ("python", "think") for pair in zip(names, names[1:], strict=False)))
        offsets.append(next((offset for name, offset in row if name in ("python", "search")), -1))
        python.append(names.count("python"))
        search.append(names.count("search"))
    return StructuralFeatures(torch.tensor(ends, dtype=torch.bool), torch.tensor(rethinks, dtype=torch.bool),
                              *(torch.tensor(column, dtype=torch.long)
                                for column in (offsets, chars, python, search)))


def _read_texts(texts: Iterable[str]) -> tuple[list[tuple[str, int]], int]:
    """Actions with offsets, and total length, of one trajectory's policy texts (kept apart: tags cannot straddle)."""
    found, length = [], 0
    for text in texts:
        found += [(match.group(1), length + match.start()) for match in _ACTION.finditer(text)]
        length += len(text)
    return found, length


def features_from_segments(trajectories: Iterable[Iterable]) -> StructuralFeatures:
    """Features of trajectories given as segments.

    Args:
        trajectories: each a sequence of segments with `by` ("model" or "tool") and `text`, as objects or mappings.
            The control token that ends a trajectory is not part of its text.
    """
    found, chars = [], []
    for segments in trajectories:
        pairs = [(s["by"], s["text"]) if isinstance(s, dict) else (s.by, s.text) for s in segments]
        row, length = _read_texts(text for by, text in pairs if by == "model")
        found.append(row)
        chars.append(length)
    return _collect(found, chars)


def detect_structural_features(responses: torch.Tensor, response_mask: torch.Tensor, tokenizer, *,
                               attention_mask: torch.Tensor | None = None) -> StructuralFeatures:
    """Features of trajectories given as token tensors.

    Args:
        responses: (B, L) token ids.
        response_mask: (B, L), 1 on policy tokens, 0 on tool tokens and padding.
        tokenizer: the policy's Hugging Face tokenizer.
        attention_mask: (B, L), optional; tokens outside it are ignored.
    """
    mask = response_mask.bool()
    if attention_mask is not None:
        mask = mask & attention_mask.bool()
    mask, ids = mask.cpu().numpy(), responses.cpu().numpy()
    rows, columns = np.nonzero(mask)
    tokens = ids[rows, columns]
    batch = len(ids)
    table = _table(tokenizer)
    if len(tokens) == 0:
        return _collect([[] for _ in range(batch)], [0] * batch)
    # Control tokens that end a row are no text.
    if table.special.size:
        tokens, rows, columns = _drop_final_specials(tokens, rows, columns, batch, table)
        if len(tokens) == 0:
            return _collect([[] for _ in range(batch)], [0] * batch)
    starts_span = np.ones(len(tokens), dtype=bool)
    starts_span[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1)
    if not table.exact:
        return _decode_rows(tokens, rows, starts_span, batch, tokenizer)
    return _scan(tokens, rows, starts_span, batch, table, tokenizer)


def _drop_final_specials(tokens, rows, columns, batch, table):
    """Remove the run of control tokens at the end of each row's policy tokens."""
    plain = np.ones(len(tokens), dtype=bool)
    is_special = np.isin(tokens, table.special)
    if is_special.any():
        ends = np.searchsorted(rows, np.arange(batch), side="right")
        begins = np.searchsorted(rows, np.arange(batch), side="left")
        for row in np.unique(rows[is_special]):
            last = ends[row]
            while last > begins[row] and is_special[last - 1]:
                last -= 1
                plain[last] = False
    return tokens[plain], rows[plain], columns[plain]


def _scan(tokens, rows, starts_span, batch, table, tokenizer) -> StructuralFeatures:
    """Vectorised reading through the table of token bytes."""
    lengths = table.chars[tokens]
    before = np.concatenate(([0], np.cumsum(lengths)))
    row_begin = np.searchsorted(rows, np.arange(batch), side="left")
    row_end = np.searchsorted(rows, np.arange(batch), side="right")
    chars = (before[row_end] - before[row_begin]).tolist()
    found: list[list[tuple[str, int]]] = [[] for _ in range(batch)]
    span_end = np.append(np.nonzero(starts_span)[0][1:], len(tokens))
    candidates = np.nonzero(table.may_open[tokens])[0]
    ends = span_end[np.searchsorted(span_end, candidates, side="right")]
    for position, end in zip(candidates.tolist(), ends.tolist(), strict=True):
        first = table.pieces[tokens[position]]
        window = b"".join(table.pieces[token] for token in tokens[position : min(end, position + _LONGEST)].tolist())
        row = rows[position]
        for match in _ACTION_BYTES.finditer(window):
            if match.start() >= len(first):
                break
            offset = int(before[position] - before[row_begin[row]]) + len(first[: match.start()].decode("utf-8", "replace"))
            found[row].append((match.group(1).decode(), offset))
    partial = np.unique(rows[table.partial[tokens]])
    if partial.size:
        # Characters split over tokens: count them by decoding, span by span, as the segments hold them.
        chosen = np.isin(rows, partial)
        exact = _rows_of_texts(tokens[chosen], rows[chosen], starts_span[chosen], tokenizer)
        for row, texts in exact.items():
            found[row], chars[row] = _read_texts(texts)
    return _collect(found, chars)


def _rows_of_texts(tokens, rows, starts_span, tokenizer) -> dict[int, list[str]]:
    """Decoded policy texts by row, one per unbroken span."""
    bounds = np.append(np.nonzero(starts_span)[0], len(tokens))
    texts: dict[int, list[str]] = {}
    for begin, end in zip(bounds, bounds[1:], strict=False):
        text = tokenizer.decode(tokens[begin:end].tolist(), skip_special_tokens=False)
        texts.setdefault(int(rows[begin]), []).append(text)
    return texts


def _decode_rows(tokens, rows, starts_span, batch, tokenizer) -> StructuralFeatures:
    """The plain way, for tokenizers whose tokens are not stand-alone byte strings: decode and search every span."""
    texts = _rows_of_texts(tokens, rows, starts_span, tokenizer)
    read = [_read_texts(texts.get(row, [])) for row in range(batch)]
    return _collect([found for found, _ in read], [length for _, length in read])


# --- the table of token bytes --------------------------------------------------------------------------------------


class _TokenTable:
    """Bytes of every token of a byte-level tokenizer, and what they imply.

    Attributes:
        exact: the tokenizer decodes by joining token bytes; otherwise the other fields are empty.
        pieces: bytes by id. chars: characters by id. partial: holds an incomplete character, by id.
        may_open: an opening tag can begin in this token, by id. special: ids of control tokens.
    """

    def __init__(self, tokenizer):
        self.special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.exact = backend is not None and type(backend.decoder).__name__ == "ByteLevel"
        if not self.exact:
            return
        size = max(len(tokenizer), *(i + 1 for i in tokenizer.get_vocab().values()))
        to_byte = {char: byte for byte, char in _byte_alphabet().items()}
        added = {token_id for token_id in tokenizer.added_tokens_decoder}
        self.pieces = [b""] * size
        for token, token_id in tokenizer.get_vocab().items():
            plain = token_id in added or any(char not in to_byte for char in token)
            self.pieces[token_id] = token.encode() if plain else bytes(to_byte[char] for char in token)
        self.partial = np.array([not _whole(piece) for piece in self.pieces])
        self.chars = np.array([len(piece.decode("utf-8", "replace")) for piece in self.pieces], dtype=np.int64)
        self.may_open = np.array([_may_open(piece) for piece in self.pieces])


def _whole(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _may_open(piece: bytes) -> bool:
    """Whether some suffix of the piece is a prefix of an opening tag, or holds one whole."""
    for start in (match.start() for match in re.finditer(b"<", piece)):
        tail = piece[start:]
        if any(opening.startswith(tail) or tail.startswith(opening) for opening in _OPENINGS):
            return True
    return False


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte, which byte-level vocabularies are written in."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + rank) for rank, byte in enumerate(others)}


_TABLES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _table(tokenizer) -> _TokenTable:
    """The tokenizer's table, made once and dropped with it."""
    if tokenizer not in _TABLES:
        _TABLES[tokenizer] = _TokenTable(tokenizer)
    return _TABLES[tokenizer]
