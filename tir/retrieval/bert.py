"""BERT in plain torch, for sentence encoders of that architecture (e5-base-v2, all-MiniLM-L6-v2).

Importing the model classes of `transformers` takes longer than all other start-up work of a small retrieval server, so
the study's architecture is implemented here; `encoder.py` loads all others through `transformers`. Reference: Devlin et
al. (2019). Weight names are those of `transformers.BertModel`. Inference only, without dropout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tir.common.errors import CheckpointError
from tir.common.linear import linear

ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu}


@dataclass(frozen=True)
class _Block:
    """Consecutive texts of equal length: their number, their length, and the slice of their tokens."""

    texts: int
    length: int
    tokens: slice


def _blocks(lengths: Sequence[int]) -> list[_Block]:
    blocks, end = [], 0
    for length, equal in groupby(lengths):
        texts, start = len(list(equal)), end
        end = start + texts * length
        blocks.append(_Block(texts, length, slice(start, end)))
    return blocks


class BertEncoder:
    """BERT with mean pooling: the mean of the last layer over each text's tokens.

    The texts of a forward pass are concatenated without padding. All operations except attention work token by token;
    attention processes texts of equal length as one block.

    Args:
        config: the checkpoint's `config.json` (model_type "bert").
        weights: tensors by name, with or without the prefix "bert."; pooler and heads are ignored.

    Raises:
        CheckpointError: a weight is missing, or the configuration is not plain BERT.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]):
        if config.get("position_embedding_type", "absolute") != "absolute" or config["hidden_act"] not in ACTIVATIONS:
            raise CheckpointError(
                "not a plain BERT",
                where="config.json",
                why=f"position_embedding_type is not absolute, or hidden_act is not one of {', '.join(ACTIVATIONS)}",
                remedy="choose an encoder of the architecture of e5-base-v2 or all-MiniLM-L6-v2",
            )
        weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config["layer_norm_eps"]
        self.max_positions: int = config["max_position_embeddings"]
        self.activation = ACTIVATIONS[config["hidden_act"]]
        try:
            # Sentence encoders use token type 0 only; add its embedding to the position embeddings once.
            self.words = weights["embeddings.word_embeddings.weight"]
            self.positions = (
                weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
            )
            self.norm = _pair(weights, "embeddings.LayerNorm")
            self.layers = [_layer(weights, f"encoder.layer.{number}.") for number in range(config["num_hidden_layers"])]
        except KeyError as missing:
            raise CheckpointError(
                "weight missing",
                where="model.safetensors",
                why=f"no weight {missing}",
                remedy="download the checkpoint again; it must be a BertModel",
            ) from None

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Map the token ids of n non-empty texts, sorted by length, to (n, hidden)."""
        blocks = _blocks([len(text) for text in texts])
        words = functional.embedding(
            torch.tensor(list(chain.from_iterable(texts)), device=self.words.device), self.words
        )
        positions = torch.cat([self.positions[: block.length].repeat(block.texts, 1) for block in blocks])
        states = self._normalise(words + positions, self.norm)
        for layer in self.layers:
            context = self._attend(linear(states, *layer["qkv"]), blocks)
            states = self._normalise(states + linear(context, *layer["attention"]), layer["attention_norm"])
            hidden = self.activation(linear(states, *layer["up"]))
            states = self._normalise(states + linear(hidden, *layer["down"]), layer["output_norm"])
        return torch.cat([states[block.tokens].view(block.texts, block.length, -1).mean(1) for block in blocks])

    def _attend(self, projected: Tensor, blocks: Sequence[_Block]) -> Tensor:
        """Map query, key and value of all tokens, (tokens, 3 hidden), to contexts (tokens, hidden) within each text."""
        context = projected.new_empty(len(projected), projected.shape[1] // 3)
        for block in blocks:
            shape = block.texts, block.length, 3, self.heads, -1
            query, key, value = projected[block.tokens].view(shape).permute(2, 0, 3, 1, 4)
            output = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
            context[block.tokens].view_as(output).copy_(output)
        return context

    def _normalise(self, states: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(states, states.shape[-1:], *pair, self.epsilon)


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each `.weight` that `BertEncoder` reads, by module name.

    All modules except the three embedding tables also have a `.bias`, as long as the weight's first dimension.
    """
    dim, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings": (config["vocab_size"], dim),
        "embeddings.position_embeddings": (config["max_position_embeddings"], dim),
        "embeddings.token_type_embeddings": (config["type_vocab_size"], dim),
        "embeddings.LayerNorm": (dim,),
    }
    for number in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        shapes |= {f"{name}.attention.self.{projection}": (dim, dim) for projection in ("query", "key", "value")}
        shapes |= {
            f"{name}.attention.output.dense": (dim, dim),
            f"{name}.attention.output.LayerNorm": (dim,),
            f"{name}.intermediate.dense": (wide, dim),
            f"{name}.output.dense": (dim, wide),
            f"{name}.output.LayerNorm": (dim,),
        }
    return shapes


def _pair(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer(weights: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[Tensor, Tensor]]:
    projections = [_pair(weights, f"{prefix}attention.self.{name}") for name in ("query", "key", "value")]
    return {
        "qkv": tuple(torch.cat(tensors) for tensors in zip(*projections, strict=True)),  # one matrix product, not three
        "attention": _pair(weights, f"{prefix}attention.output.dense"),
        "attention_norm": _pair(weights, f"{prefix}attention.output.LayerNorm"),
        "up": _pair(weights, f"{prefix}intermediate.dense"),
        "down": _pair(weights, f"{prefix}output.dense"),
        "output_norm": _pair(weights, f"{prefix}output.LayerNorm"),
    }
