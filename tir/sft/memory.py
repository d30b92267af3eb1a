"""GPU memory of fine-tuning, and how many tokens fit into a forward pass.

Computed, not measured: bf16 weights and gradients, an fp32 copy of the weights and AdamW's two moments in fp32 (16
bytes per parameter, divided by ZeRO), DeepSpeed's copies of the gradients, and the tensors that a forward pass keeps
for the backward pass. Liger's kernels compute the loss in chunks, so logits take next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tir.common.errors import InfrastructureFault

# Bytes that are not computed: CUDA and NCCL contexts, workspaces, DeepSpeed's buckets, one chunk of logits.
OVERHEAD_BYTES = 6e9
STEP_OVERHEAD_BYTES = 1e9  # as OVERHEAD_BYTES, while the optimizer updates the weights: contexts only
SUB_GROUP = 1e9  # parameters that ZeRO 3 updates at a time: DeepSpeed's default for `sub_group_size`
USABLE = 0.94  # share of a GPU's memory; the rest is lost to fragments


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer: parameters, layers, width, width of all query heads, and of the feed-forward layer."""

    parameters: float
    layers: int
    hidden: int
    queries: int
    intermediate: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Shape of a model with grouped-query attention and a gated feed-forward layer, from its `config.json`."""
    hidden, layers, intermediate = (config[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    queries, keys = heads * size, config.get("num_key_value_heads", heads) * size
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    layer = 2 * hidden * (queries + keys) + 3 * hidden * intermediate
    return Shape(embeddings + layers * layer, layers, hidden, queries, intermediate)


def state_bytes(parameters: float, processes: int, stage: int) -> dict[str, float]:
    """Bytes on each GPU of weights, gradients and optimizer; ZeRO 1 divides the optimizer, 2 also gradients, 3 all."""
    if not stage:  # fp32 weights, which autocast copies to bf16, and fp32 gradients
        return {"weights": 6 * parameters, "gradients": 4 * parameters, "optimizer": 8 * parameters}
    part = [1 / processes if stage >= first else 1 for first in (3, 2, 1)]
    return {
        "weights": 2 * part[0] * parameters,
        "gradients": 2 * part[1] * parameters,
        "optimizer": 12 * part[2] * parameters,
    }


def moments(parameters: float, processes: int, stage: int, activations: float = 0.0) -> tuple[dict[str, float], ...]:
    """Bytes on each GPU, by what fills them, in a pass and while the optimizer updates the weights.

    ZeRO 2 computes the gradients of each pass beside those of the earlier passes of the step. For the update, DeepSpeed
    copies a GPU's gradients into one bf16 tensor and this into fp32, and frees the others after that.
    """
    states, part = state_bytes(parameters, processes, stage), parameters / processes
    copied = 6 * (min(part, SUB_GROUP) if stage == 3 else part) if stage else 0.0
    return (
        states
        | {
            "gradients of one pass": 2 * part if stage == 2 else 0.0,
            "activations": activations,
            "buffers": OVERHEAD_BYTES,
        },
        states | {"copies of the gradients": copied, "buffers": STEP_OVERHEAD_BYTES},
    )


def activation_bytes(shape: Shape, recompute: bool) -> float:
    """Bytes per token that a forward pass keeps and the backward pass of one layer needs.

    A layer keeps in bf16: the inputs and outputs of both norms (4 x hidden), queries, repeated keys and values and the
    output of attention (4 x queries), gate, up and their product (3 x intermediate). With recomputation it keeps its
    input only. One layer's tensors exist a second time as gradients.
    """
    layer = 2 * (4 * shape.hidden + 4 * shape.queries + 3 * shape.intermediate)
    return (2 * shape.hidden * shape.layers + 2 * layer) if recompute else layer * (shape.layers + 1)


def plan_passes(
    shape: Shape, memory: float, processes: int, stage: int, longest: int, recompute: bool | None = None
) -> tuple[int, bool]:
    """Tokens per forward pass, and whether activations are recomputed: only if a longest row would not fit otherwise.

    Args:
        shape: the model.
        memory: bytes of one GPU.
        processes: number of GPUs.
        stage: ZeRO stage, 0 for none.
        longest: tokens of the longest row that may occur.
        recompute: whether activations are recomputed; None: only if memory requires it.

    Raises:
        InfrastructureFault: the model's states and one row, or the update of the weights, do not fit.
    """
    usable = USABLE * memory
    in_pass, at_update = (sum(parts.values()) for parts in moments(shape.parameters, processes, stage))
    free = usable - in_pass
    if at_update > usable:
        lacks = f"need {at_update / 1e9:.1f} GB while the optimizer updates the weights, of {usable / 1e9:.1f} GB"
    else:
        for each in (False, True) if recompute is None else (recompute,):
            tokens = int(free / activation_bytes(shape, each))
            if tokens >= longest:
                return tokens, each
        row = longest * activation_bytes(shape, each)
        lacks = (
            f"leave {max(0.0, free) / 1e9:.1f} GB for activations, a row of {longest} tokens needs {row / 1e9:.1f} GB"
        )
    raise InfrastructureFault(
        "the model does not fit into the GPUs' memory",
        where=f"{processes} x {memory / 1e9:.0f} GB",
        why=f"{shape.parameters / 1e9:.2f} B parameters with ZeRO {stage} {lacks}",
        remedy="more GPUs in the profile (set-resources: {sft: {gres: ...}}), or sft: {deepspeed: zero3}",
    )
