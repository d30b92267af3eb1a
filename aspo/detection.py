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
_CHARS, _MAY_OPEN, _PARTIAL = 0x3FFF, 0x4000, 0x8000


@dataclass(frozen=True)
class StructuralFeatures:
    """Features of B trajectories, each field a (B,) tensor.

    Attributes:
        ends_python_answer: bool; the last two actions are python, answer.
        has_python_think: bool; some two consecutive actions are python, think.
        first_tool_offset: int64; characters of policy text before the first `<python>` or `<search>`, -1 if none.
        first_python_offset: int64; the same, before the first `<python>`.
        policy_chars: int64; characters of policy text.
        n_python, n_search: int64; opening tags of each tool.
    """

    ends_python_answer: torch.Tensor
    has_python_think: torch.Tensor
    first_tool_offset: torch.Tensor
    first_python_offset: torch.Tensor
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
    ends, rethinks, tools, codes, python, search = [], [], [], [], [], []
    for row in found:
        names = [name for name, _ in row]
        ends.append(names[-2:] == ["python", "answer"])
        rethinks.append(any(pair == ("python", "think") for pair in zip(names, names[1:], strict=False)))
        tools.append(next((offset for name, offset in row if name in ("python", "search")), -1))
        codes.append(next((offset for name, offset in row if name == "python"), -1))
        python.append(names.count("python"))
        search.append(names.count("search"))
    return StructuralFeatures(torch.tensor(ends, dtype=torch.bool), torch.tensor(rethinks, dtype=torch.bool),
                              *(torch.tensor(column, dtype=torch.long)
                                for column in (tools, codes, chars, python, search)))


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
    table = _table(tokenizer)
    if ids.size and (ids.min() < 0 or ids.max() >= table.size):
        # A model's vocabulary is padded beyond its tokenizer's; such an id decodes to nothing.
        ids = np.where((ids >= 0) & (ids < table.size), ids, table.size)
    ends_of_text = _without_final_specials(ids, mask, table.special)
    if not table.exact:
        read = [_read_texts(_texts(ids[row, :end], mask[row, :end], table, tokenizer)) for row, end in enumerate(ends_of_text)]
        return _collect([found for found, _ in read], [length for _, length in read])
    return _scan(ids, mask, ends_of_text, table, tokenizer)


def _without_final_specials(ids, mask, special) -> list[int]:
    """Where each row's policy text ends: before the control tokens that close it, or any padding."""
    batch, length = mask.shape
    last = np.where(mask.any(axis=1), length - mask[:, ::-1].argmax(axis=1), 0) if length else np.zeros(batch, dtype=int)
    ends = last.tolist()
    control = set(special.tolist())
    for row in range(batch):
        end = ends[row]
        while end > 0 and (not mask[row, end - 1] or int(ids[row, end - 1]) in control):
            end -= 1
        ends[row] = end
    return ends


def _scan(ids, mask, ends_of_text, table, tokenizer) -> StructuralFeatures:
    """Reading through the table of token bytes: one look-up per token, then work only where a tag may begin."""
    batch, length = ids.shape
    live = mask & (np.arange(length) < np.array(ends_of_text)[:, None])
    kinds = table.kind[ids]
    kinds *= live
    widths = (kinds & _CHARS).astype(np.int64)
    chars = widths.sum(axis=1).tolist()
    found: list[list[tuple[str, int]]] = [[] for _ in range(batch)]
    for row, position in zip(*(axis.tolist() for axis in np.nonzero(kinds & _MAY_OPEN)), strict=True):
        names = _tags_at(ids[row], live[row], position, table)
        if names:
            before = int(widths[row, :position].sum())
            found[row] += [(name, before + inside) for name, inside in names]
    for row in np.nonzero((kinds & _PARTIAL).any(axis=1))[0].tolist():
        # Characters split over tokens: count them by decoding, run by run, as the segments hold them.
        found[row], chars[row] = _read_texts(_texts(ids[row, : ends_of_text[row]], live[row], table, tokenizer))
    return _collect(found, chars)


def _tags_at(ids, live, position: int, table) -> list[tuple[str, int]]:
    """Opening tags that begin in the token at `position` and end within its run of policy tokens, with the character
    offset of each inside the token."""
    first = table.pieces[ids[position]]
    window = first
    for follower in range(position + 1, min(position + _LONGEST, len(ids))):
        if not live[follower] or len(window) >= len(first) + _LONGEST:
            break
        window += table.pieces[ids[follower]]
    return [(match.group(1).decode(), len(first[: match.start()].decode("utf-8", "replace")))
            for match in _ACTION_BYTES.finditer(window) if match.start() < len(first)]


def _texts(ids, live, table, tokenizer) -> list[str]:
    """Decoded policy texts of a row, one per unbroken run."""
    kept = np.nonzero(live[: len(ids)])[0]
    runs = np.split(kept, np.nonzero(np.diff(kept) > 1)[0] + 1) if len(kept) else []
    return [tokenizer.decode(part[part < table.size].tolist(), skip_special_tokens=False)
            for part in (ids[run] for run in runs)]


# --- the table of token bytes --------------------------------------------------------------------------------------


class _TokenTable:
    """Bytes of every token of a byte-level tokenizer, and what they imply.

    Attributes:
        size: ids are below this; `size` itself stands for any id the tokenizer does not know, which is empty.
        exact: the tokenizer decodes by joining token bytes; otherwise `pieces` and `kind` are missing.
        pieces: bytes by id.
        kind: uint16 by id: characters of the token, and the flags `_MAY_OPEN` (an opening tag can begin in it) and
            `_PARTIAL` (it holds an incomplete character).
        special: ids of control tokens.
    """

    def __init__(self, tokenizer):
        self.special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        self.size = max(len(tokenizer), *(i + 1 for i in tokenizer.get_vocab().values()))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.exact = backend is not None and type(backend.decoder).__name__ == "ByteLevel"
        if not self.exact:
            return
        to_byte = {char: byte for byte, char in _byte_alphabet().items()}
        added = set(tokenizer.added_tokens_decoder)
        self.pieces = [b""] * (self.size + 1)
        for token, token_id in tokenizer.get_vocab().items():
            plain = token_id in added or any(char not in to_byte for char in token)
            self.pieces[token_id] = token.encode() if plain else bytes(to_byte[char] for char in token)
        chars = np.array([len(piece.decode("utf-8", "replace")) for piece in self.pieces], dtype=np.uint16)
        flags = [_MAY_OPEN * _may_open(piece) + _PARTIAL * (not _whole(piece)) for piece in self.pieces]
        self.kind = np.minimum(chars, _CHARS) | np.array(flags, dtype=np.uint16)


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
