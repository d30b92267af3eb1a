"""The index over the corpus."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from tir.schema import Model


class Encoder(Model):
    """The sentence encoder of the index."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    model: str = Field(description="hub id, path, or package that carries the model")
    query_prefix: str = ""
    passage_prefix: str = ""
    max_query_tokens: int = Field(128, ge=8, le=8192)
    max_passage_tokens: int = Field(512, ge=8, le=8192)
    dtype: Literal["float16", "float32", "bfloat16"] = "float32"
    batch_size: int = Field(256, ge=1, le=65536)


class Retrieval(Model):
    """Dense retrieval."""

    backend: Literal["dense", "bm25"] = "dense"
    encoder: Encoder
    shard_rows: int = Field(65_536, ge=1000, description="passages per shard of the resumable build")
