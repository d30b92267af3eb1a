"""The retrieval index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model
from tir.retrieval.settings import EncoderSettings


class Encoder(EncoderSettings):
    """The sentence encoder of the index."""

    model: str = Field("encoder", description="name of the encoder under `models`")


class Retrieval(Model):
    """The index that the search tool queries."""

    backend: Literal["dense", "bm25"] = Field(
        "dense", description="dense: inner product of embeddings; bm25: lexical, without a model"
    )
    encoder: Encoder = Field(description="encoder of a dense index")
    shard_rows: int = Field(65_536, ge=1000, description="passages per shard; an interrupted build resumes by shard")
