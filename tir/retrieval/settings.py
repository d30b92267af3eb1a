"""Settings that `EncoderConfig` and the section `retrieval.encoder` of the configuration share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tir.common.schema import Model

QueryPrefix = Annotated[str, Field(description="prefix of every query; for e5 `query: `")]
PassagePrefix = Annotated[str, Field(description="prefix of every passage; for e5 `passage: `")]
QueryTokens = Annotated[int, Field(ge=8, le=8192, description="longer queries are truncated, tokens")]
PassageTokens = Annotated[int, Field(ge=8, le=8192, description="longer passages are truncated, tokens")]


class EncoderSettings(Model):
    """Settings of a sentence encoder; the embeddings depend on those without a default."""

    model: str
    query_prefix: QueryPrefix
    passage_prefix: PassagePrefix
    max_query_tokens: QueryTokens
    max_passage_tokens: PassageTokens
    dtype: Literal["float16", "float32", "bfloat16"] = Field(
        "float32", description="data type of weights and activations; float16 needs a GPU"
    )
    batch_size: int = Field(256, ge=1, le=65536, description="maximum texts per forward pass")
