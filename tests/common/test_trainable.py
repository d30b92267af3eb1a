"""Which models are refused for training, from the keys of their published configurations."""

import json

import pytest

from tir.common.errors import ConfigError
from tir.common.trainable import check_trainable

QWEN = {"model_type": "qwen2", "hidden_size": 3584, "sliding_window": 131072, "use_sliding_window": False}
LLAMA = {"model_type": "llama", "hidden_size": 4096, "max_position_embeddings": 131072}
MISTRAL = {"model_type": "mistral", "hidden_size": 4096, "sliding_window": 4096}  # v0.1; null in v0.3


def check(tmp_path, config: dict, longest: int = 5632) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_trainable(tmp_path, "a/m", longest)


@pytest.mark.parametrize(
    "config",
    [
        QWEN,
        QWEN | {"sliding_window": 1024},
        QWEN | {"layer_types": ["full_attention"] * 28},
        QWEN | {"layer_types": None},
        LLAMA,
        MISTRAL | {"sliding_window": None},
        LLAMA | {"logits_scaling": 1.0, "final_logit_softcapping": None},
        {},
    ],
)
def test_models_that_can_be_trained(tmp_path, config):
    check(tmp_path, config)


@pytest.mark.parametrize(
    "config, reason",
    [
        (LLAMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, "attn_logit_softcapping: 50"),
        (LLAMA | {"final_logit_softcapping": 30.0}, "final_logit_softcapping: 30"),
        (LLAMA | {"logits_scaling": 8.0}, "logits_scaling: 8"),
        (LLAMA | {"logit_scale": 0.0625}, "logit_scale: 0.0625"),
        (QWEN | {"layer_types": ["linear_attention", "full_attention"]}, "not attention .linear_attention."),
        (QWEN | {"linear_num_key_heads": 16}, "not attention .linear_num_key_heads."),
        (LLAMA | {"layers_block_type": ["mamba", "attention"]}, "not attention .mamba."),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}, "not a model of text alone"),
        (MISTRAL, "window of 4096 tokens is shorter than a sequence of 5632"),
    ],
)
def test_models_that_cannot_be_trained_are_refused_with_the_reason(tmp_path, config, reason):
    with pytest.raises(ConfigError, match=reason):
        check(tmp_path, config)


def test_a_window_matters_only_if_a_sequence_exceeds_it(tmp_path):
    check(tmp_path, MISTRAL, 4096)
