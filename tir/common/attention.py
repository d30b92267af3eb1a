"""Attention over packed sequences, as the attention implementation "packed" of transformers.

Reinforcement learning and fine-tuning lay the sequences of a micro-batch end to end, and their positions say where each
begins. transformers' `sdpa` separates them by a dense mask of tokens x tokens, which costs memory and time quadratic in
the micro-batch. Here each sequence attends to itself only, so the cost is quadratic in the length of a sequence:

- on GPUs in bf16 or fp16, by FlashAttention's kernel for sequences of different lengths (`torch.nn.attention.varlen`);
- otherwise by one causal attention per sequence. On a CPU in fp32 that is FlashAttention too, by torch's own kernel.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

NAME = "packed"
_HALF = (torch.bfloat16, torch.float16)
_last: tuple[torch.Tensor | None, list[int]] = (None, [])  # positions of the last call and their lengths


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_unused,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a pack; see transformers' `AttentionInterface`.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, size of a head).
        key, value: the same, possibly with fewer heads.
        attention_mask: None; the sequences have no padding.
        position_ids: (1, tokens); a sequence begins at each 0.
        scaling: factor of the scores.
        dropout, sliding_window, softcap, s_aux: not supported, except a window that no sequence exceeds.

    Returns:
        (1, tokens, heads, size of a head), and None for the weights.

    Raises:
        NotImplementedError: the model needs more than causal attention, or the batch is not a pack.
    """
    lengths = sequence_lengths(position_ids)
    if query.shape[0] != 1 or attention_mask is not None or dropout or softcap or s_aux is not None:
        raise NotImplementedError(
            f"{type(module).__name__}: packed attention has one row, and neither mask, dropout, softcap nor sinks"
        )
    if sliding_window and max(lengths) > sliding_window:
        raise NotImplementedError(
            f"{type(module).__name__}: a sequence of {max(lengths)} tokens exceeds the model's attention window of "
            f"{sliding_window}"
        )
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if query.is_cuda and query.dtype in _HALF:
        return _flash(query, key, value, lengths, scaling)[None], None
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    # On processors with AMX, torch's CPU kernel in bf16 needs AVX-512, and raises if ATEN_CPU_CAPABILITY=avx2.
    with sdpa_kernel(SDPBackend.MATH) if query.dtype in _HALF else nullcontext():
        output = [scaled_dot_product_attention(*part, is_causal=True, scale=scaling) for part in parts]
    return torch.cat(output, dim=2).transpose(1, 2).contiguous(), None


def sequence_lengths(position_ids: torch.Tensor) -> list[int]:
    """Lengths of the sequences in a pack, from positions (1, tokens); computed once for all layers of a pass."""
    global _last
    if _last[0] is not position_ids:
        starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
        if starts[:1] != [0]:
            raise ValueError("the first position of a pack must be 0")
        ends = [*starts[1:], position_ids.shape[1]]
        _last = position_ids, [end - start for start, end in zip(starts, ends, strict=True)]
    return _last[1]


def _flash(query, key, value, lengths: list[int], scaling: float | None) -> torch.Tensor:
    """FlashAttention on a GPU; (tokens, heads, size of a head)."""
    from torch.nn.attention.varlen import varlen_attn

    ends = _ends(tuple(lengths), query.device)
    states = (states[0].transpose(0, 1) for states in (query, key, value))
    return varlen_attn(*states, ends, ends, max(lengths), max(lengths), scale=scaling, window_size=(-1, 0))


@functools.lru_cache(maxsize=2)
def _ends(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each sequence begins, and the last one ends; copied to the GPU once for all layers of a pass."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


AttentionInterface.register(NAME, packed_attention)
