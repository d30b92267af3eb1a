r"""Structural features of trajectories: the sequence of actions, and the offset of the first tool call.

The action sequence is every opening tag `<think> <python> <search> <answer>` in the policy's own text, in order. Tags
are several tokens in Qwen2.5 and merge with their neighbours (`><`, `>\n`, `.</`), so tags are found in text, never
by token id. A tag inside a tool result, split by a tool result, or cut off by truncation does not count.

Two functions compute the same features:

    detect_structural_features   from (B, L) token ids and mask, for a trainer
    features_from_segments       from segments of text by author, for trace records

Cost of the tensor version: one table look-up per policy token, then work per token that can begin a tag (a handful per
trajectory). The cost is linear in B * L. Only rows with a token that holds part of a UTF-8 character are decoded, once.
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
_OPENING_TAGS = (b"<think>", b"<python>", b"<search>", b"<answer>")
_LONGEST_TAG = max(map(len, _OPENING_TAGS))
# Bits of `_TokenTable.kind`: a token's number of characters, and two flags.
_CHARS, _MAY_OPEN, _PARTIAL = 0x3FFF, 0x4000, 0x8000


@dataclass(frozen=True)
class StructuralFeatures:
    """Features of B trajectories, each field a (B,) tensor.

    Attributes:
        ends_python_answer: bool; the last two actions are python, answer.
        has_python_think: bool; some two consecutive actions are python, think.
        first_tool_offset: int64; characters of policy text before the first `<python>` or `<search>`, -1 if none.
        first_python_offset: int64; characters of policy text before the first `<python>`, -1 if none.
        policy_chars: int64; characters of policy text.
        n_python, n_search: int64; number of opening tags of each tool.
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

    def select(self, rows: torch.Tensor) -> StructuralFeatures:
        """The features of some rows: (B,) bool, or row numbers."""
        return StructuralFeatures(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.policy_chars)


def _to_features(actions: list[list[tuple[str, int]]], chars: list[int]) -> StructuralFeatures:
    """Features from each row's (action, character offset) pairs and text length."""
    ends, backtracks, first_tool, first_python, n_python, n_search = [], [], [], [], [], []
    for row in actions:
        names = [name for name, _ in row]
        ends.append(names[-2:] == ["python", "answer"])
        backtracks.append(any(pair == ("python", "think") for pair in zip(names, names[1:], strict=False)))
        first_tool.append(next((offset for name, offset in row if name in ("python", "search")), -1))
        first_python.append(next((offset for name, offset in row if name == "python"), -1))
        n_python.append(names.count("python"))
        n_search.append(names.count("search"))
    return StructuralFeatures(
        torch.tensor(ends, dtype=torch.bool),
        torch.tensor(backtracks, dtype=torch.bool),
        *(torch.tensor(column, dtype=torch.long) for column in (first_tool, first_python, chars, n_python, n_search)),
    )


def _find_actions(texts: Iterable[str]) -> tuple[list[tuple[str, int]], int]:
    """(action, offset) pairs and total length of one trajectory's policy texts.

    The texts are searched one by one: a tag split between two texts does not count.
    """
    actions, length = [], 0
    for text in texts:
        actions += [(match.group(1), length + match.start()) for match in _ACTION.finditer(text)]
        length += len(text)
    return actions, length


def features_from_segments(trajectories: Iterable[Iterable]) -> StructuralFeatures:
    """Features of trajectories given as segments.

    Args:
        trajectories: each a sequence of segments with `by` ("model" or "tool") and `text`, as objects or mappings.
            The text must not include the control token that ends the trajectory.
    """
    actions, chars = [], []
    for segments in trajectories:
        pairs = [(s["by"], s["text"]) if isinstance(s, dict) else (s.by, s.text) for s in segments]
        row, length = _find_actions(text for by, text in pairs if by == "model")
        actions.append(row)
        chars.append(length)
    return _to_features(actions, chars)


def detect_structural_features(
    responses: torch.Tensor, response_mask: torch.Tensor, tokenizer, *, attention_mask: torch.Tensor | None = None
) -> StructuralFeatures:
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
        # A model's vocabulary may be padded beyond the tokenizer's; the padding ids decode to "".
        ids = np.where((ids >= 0) & (ids < table.size), ids, table.size)
    ends_of_text = _ends_of_text(ids, mask, table.special)
    if not table.byte_level:
        rows = [
            _find_actions(_decode_runs(ids[row, :end], mask[row, :end], table, tokenizer))
            for row, end in enumerate(ends_of_text)
        ]
        return _to_features([actions for actions, _ in rows], [length for _, length in rows])
    return _scan(ids, mask, ends_of_text, table, tokenizer)


def _ends_of_text(ids, mask, special) -> list[int]:
    """End position of each row's policy text, without final control tokens and padding."""
    batch, length = mask.shape
    last = (
        np.where(mask.any(axis=1), length - mask[:, ::-1].argmax(axis=1), 0) if length else np.zeros(batch, dtype=int)
    )
    ends = last.tolist()
    control = set(special.tolist())
    for row in range(batch):
        end = ends[row]
        while end > 0 and (not mask[row, end - 1] or int(ids[row, end - 1]) in control):
            end -= 1
        ends[row] = end
    return ends


def _scan(ids, mask, ends_of_text, table, tokenizer) -> StructuralFeatures:
    """Features from the table of token bytes: one look-up per token, then a search only where a tag may begin."""
    batch, length = ids.shape
    is_policy = mask & (np.arange(length) < np.array(ends_of_text)[:, None])
    kinds = table.kind[ids]
    kinds *= is_policy
    widths = (kinds & _CHARS).astype(np.int64)
    chars = widths.sum(axis=1).tolist()
    actions: list[list[tuple[str, int]]] = [[] for _ in range(batch)]
    for row, position in zip(*(axis.tolist() for axis in np.nonzero(kinds & _MAY_OPEN)), strict=True):
        tags = _tags_at(ids[row], is_policy[row], position, table)
        if tags:
            before = int(widths[row, :position].sum())
            actions[row] += [(name, before + inside) for name, inside in tags]
    for row in np.nonzero((kinds & _PARTIAL).any(axis=1))[0].tolist():
        # A character is split between tokens: decode each run of policy tokens, as a segment's text is decoded.
        texts = _decode_runs(ids[row, : ends_of_text[row]], is_policy[row], table, tokenizer)
        actions[row], chars[row] = _find_actions(texts)
    return _to_features(actions, chars)


def _tags_at(ids, is_policy, position: int, table) -> list[tuple[str, int]]:
    """Opening tags that begin in the token at `position` and end in the same run of policy tokens.

    Returns (name, character offset inside the token) pairs.
    """
    first = table.token_bytes[ids[position]]
    window = first
    for follower in range(position + 1, min(position + _LONGEST_TAG, len(ids))):
        if not is_policy[follower] or len(window) >= len(first) + _LONGEST_TAG:
            break
        window += table.token_bytes[ids[follower]]
    return [
        (match.group(1).decode(), len(first[: match.start()].decode("utf-8", "replace")))
        for match in _ACTION_BYTES.finditer(window)
        if match.start() < len(first)
    ]


def _decode_runs(ids, is_policy, table, tokenizer) -> list[str]:
    """Decoded policy texts of a row, one per unbroken run of policy tokens."""
    positions = np.nonzero(is_policy[: len(ids)])[0]
    runs = np.split(positions, np.nonzero(np.diff(positions) > 1)[0] + 1) if len(positions) else []
    return [
        tokenizer.decode(
            run_ids[run_ids < table.size].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        for run_ids in (ids[run] for run in runs)
    ]


# --- the table of token bytes --------------------------------------------------------------------------------------


class _TokenTable:
    """Bytes of every token of a byte-level tokenizer, and properties derived from them.

    Attributes:
        size: all ids are below this; unknown ids are mapped to `size`, whose entry is empty.
        byte_level: the tokenizer decodes by joining token bytes; otherwise `token_bytes` and `kind` are not set.
        token_bytes: bytes by id.
        kind: uint16 by id: number of characters, and the flags `_MAY_OPEN` (an opening tag can begin in the token) and
            `_PARTIAL` (the token holds an incomplete character).
        special: ids of control tokens.
    """

    def __init__(self, tokenizer):
        # `all_special_ids` has only tokens with a role (eos, pad); in Gemma the end-of-turn token has none.
        marked = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self.special = np.array(sorted({*tokenizer.all_special_ids, *marked}), dtype=np.int64)
        self.size = max(len(tokenizer), *(i + 1 for i in tokenizer.get_vocab().values()))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.byte_level = backend is not None and type(backend.decoder).__name__ == "ByteLevel"
        if not self.byte_level:
            return
        to_byte = {char: byte for byte, char in _byte_alphabet().items()}
        added = set(tokenizer.added_tokens_decoder)
        self.token_bytes = [b""] * (self.size + 1)
        for token, token_id in tokenizer.get_vocab().items():
            plain = token_id in added or any(char not in to_byte for char in token)
            self.token_bytes[token_id] = token.encode() if plain else bytes(to_byte[char] for char in token)
        chars = np.array([len(token.decode("utf-8", "replace")) for token in self.token_bytes], dtype=np.uint16)
        flags = [_MAY_OPEN * _may_open(token) + _PARTIAL * (not _is_utf8(token)) for token in self.token_bytes]
        self.kind = np.minimum(chars, _CHARS) | np.array(flags, dtype=np.uint16)


def _is_utf8(token: bytes) -> bool:
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _may_open(token: bytes) -> bool:
    """Whether an opening tag can begin in the token: it contains a tag, or ends with the beginning of one."""
    for start in (match.start() for match in re.finditer(b"<", token)):
        tail = token[start:]
        if any(tag.startswith(tail) or tail.startswith(tag) for tag in _OPENING_TAGS):
            return True
    return False


def _byte_alphabet() -> dict[int, str]:
    """The printable character that GPT-2's byte-level vocabularies use for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + rank) for rank, byte in enumerate(others)}


_TABLES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _table(tokenizer) -> _TokenTable:
    """The tokenizer's table, built once and freed together with the tokenizer."""
    if tokenizer not in _TABLES:
        _TABLES[tokenizer] = _TokenTable(tokenizer)
    return _TABLES[tokenizer]
