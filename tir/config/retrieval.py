"""The retrieval index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model


class Encoder(Model):
    """The sentence encoder of the index."""

    model: str = Field("encoder", description="name of the encoder under `models`")
    query_prefix: str = Field("", description="prefix of every query; for e5 `query: `")
    passage_prefix: str = Field("", description="prefix of every passage; for e5 `passage: `")
    max_query_tokens: int = Field(128, ge=8, le=8192, description="longer queries are truncated, tokens")
    max_passage_tokens: int = Field(512, ge=8, le=8192, description="longer passages are truncated, tokens")
    dtype: Literal["float16", "float32", "bfloat16"] = Field(
        "float32", description="data type of weights and activations; float16 needs a GPU"
    )
    batch_size: int = Field(256, ge=1, le=65536, description="maximum texts per forward pass")


class Retrieval(Model):
    """The index that the search tool queries."""

    backend: Literal["dense", "bm25"] = Field(
        "dense", description="dense: inner product of embeddings; bm25: lexical, without a model"
    )
    encoder: Encoder = Field(description="encoder of a dense index")
    shard_rows: int = Field(65_536, ge=1000, description="passages per shard; an interrupted build resumes by shard")
