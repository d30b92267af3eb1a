"""Settings that `EncoderConfig` and the section `retrieval.encoder` of the configuration share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tir.common.schema import Model


class EncoderSettings(Model):
    """Settings of a sentence encoder, with the defaults of the configuration."""

    model: str
    query_prefix: str = Field("", description="prefix of every query; for e5 `query: `")
    passage_prefix: str = Field("", description="prefix of every passage; for e5 `passage: `")
    max_query_tokens: int = Field(128, ge=8, le=8192, description="longer queries are truncated, tokens")
    max_passage_tokens: int = Field(512, ge=8, le=8192, description="longer passages are truncated, tokens")
    dtype: Literal["float16", "float32", "bfloat16"] = Field(
        "float32", description="data type of weights and activations; float16 needs a GPU"
    )
    batch_size: int = Field(256, ge=1, le=65536, description="maximum texts per forward pass")
