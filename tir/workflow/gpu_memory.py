"""GB of GPU memory in RL, DPO and serving, computed from the shape of the model; `tir.sft.memory` has fine-tuning."""

from __future__ import annotations

from tir.sft import memory
from tir.workflow.estimate import Shape


def training_gb(
    model: Shape, number: int, micro_tokens: int, *, stage: int, fp32_weights: bool, chunk_tokens: int | None = None
) -> dict[str, float]:
    """GB on each GPU while training with AdamW and recomputed activations.

    Args:
        model: shape of the model.
        number: number of GPUs that share what the ZeRO stage divides.
        micro_tokens: tokens of one forward pass.
        stage: ZeRO stage: 1 divides the optimizer, 2 the gradients too, 3 the weights too; with fp32 weights 3 (FSDP)
            or 0, which divides nothing.
        fp32_weights: FSDP keeps fp32 weights and gradients; DeepSpeed bf16 ones, and fp32 weights in the optimizer.
        chunk_tokens: tokens whose logits exist at a time; None for all.
    """
    if fp32_weights:
        part = model.parameters / (number if stage else 1)
        states = {"weights": 4 * part, "gradients": 4 * part, "optimizer": 8 * part}
    else:
        states = memory.state_bytes(model.parameters, number, stage)
    kept = micro_tokens * model.hidden * model.layers * 2  # one bf16 input per layer
    layer = micro_tokens * model.hidden * 34  # one layer's activations while it is recomputed
    if chunk_tokens is None:
        logits = micro_tokens * model.vocabulary * (2 + 4 + 4)  # bf16, fp32, and their gradient
    else:  # as verl computes them: 28 bytes each, measured in the backward pass of its FusedLinearForPPO
        logits = min(chunk_tokens, micro_tokens) * model.vocabulary * 28
    parts = states | {"activations": kept + layer, "logits": logits}
    return {name: size / 1e9 for name, size in parts.items()}


def dpo_gb(model: Shape, number: int, pair_tokens: int, *, full: bool, stage: int) -> dict[str, float]:
    """GB on each GPU in DPO with recomputed activations.

    Args:
        model: shape of the model.
        number: number of GPUs.
        pair_tokens: tokens of the pairs of one forward pass, both members.
        full: train all weights, beside a second copy of them, the reference; else adapters of negligible size.
        stage: ZeRO stage.
    """
    parts = training_gb(model, number, pair_tokens, stage=stage, fp32_weights=not stage)
    weights = 2 * model.parameters / 1e9
    if not full:
        parts |= {"weights": weights, "gradients": 0.0, "optimizer": 0.0}
    # Of each logit: bf16, fp32, their log-softmax, and the gradients of the last two.
    logits = pair_tokens * model.vocabulary * (2 + 4 + 4 + 4 + 4) / 1e9
    if full:
        one_pass = memory.moments(model.parameters, number, stage)[0]["gradients of one pass"] / 1e9
        parts |= {"gradients of one pass": one_pass, "reference": weights}
    return parts | {"logits": logits}


def serving_gb(model: Shape, number: int, sequences: int, tokens: int) -> dict[str, float]:
    """GB on each GPU of a vLLM engine with tensor parallelism: bf16 weights, and the cache of full sequences."""
    return {
        "weights": 2 * model.parameters / number / 1e9,
        "KV cache": sequences * tokens * model.kv_bytes / number / 1e9,
        "engine": 2.5,  # CUDA context, graphs, buffers
    }
