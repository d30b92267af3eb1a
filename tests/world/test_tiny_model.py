"""The tiny tokenizer and model: token boundaries, reproducibility, and loading with other versions of transformers."""

from __future__ import annotations

import json
import subprocess

import pytest
from support.paths import ROOT
from support.tiny_text import sample_text

from tir.common.errors import ConfigError
from tir.config.world import TinyModelSettings
from tir.rollout.protocol import ACTIONS, encode_tool_text
from tir.world.names import NOUNS, WORDS
from tir.world.tiny_model import DEFAULT_SYSTEM, make_tiny_model

SETTINGS = TinyModelSettings(seed=5, vocab_size=1024)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "base"
    make_tiny_model(sample_text(), path, SETTINGS)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def tokens(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_the_model_has_the_same_bytes_when_made_twice(directory, tmp_path):
    make_tiny_model(sample_text(), tmp_path / "again", SETTINGS)
    files = sorted(path.name for path in directory.iterdir())
    assert files == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_another_seed_gives_other_weights_and_the_same_tokenizer(directory, tmp_path):
    make_tiny_model(sample_text(), tmp_path / "other", TinyModelSettings(seed=6, vocab_size=1024))
    first, other = (json.loads((path / "manifest.json").read_text()) for path in (directory, tmp_path / "other"))
    assert first["sha256"] != other["sha256"] and first["tokenizer_sha256"] == other["tokenizer_sha256"]


def test_no_tag_is_a_single_token(tokenizer):
    for tag in (*ACTIONS, "result"):
        assert tokens(tokenizer, f"<{tag}>")[0] == "<" and tokens(tokenizer, f"<{tag}>")[-1] == ">"
        assert len(tokens(tokenizer, f"<{tag}>")) >= 3 and len(tokens(tokenizer, f"</{tag}>")) >= 4
    vocabulary = tokenizer.get_vocab()
    assert not [token for token in vocabulary if len(token) > 1 and set(token) & set("<>/") and "|" not in token]


def test_digits_and_the_words_of_names_are_single_tokens(tokenizer):
    assert tokens(tokenizer, "1234") == ["1", "2", "3", "4"]
    for word in WORDS:  # in every context
        for text in (f"the town {word} ", f'"town {word}"', f"<search>town {word}</search>", f"{{town {word}}}"):
            assert word in tokens(tokenizer, text), (word, tokens(tokenizer, text))
    for noun in (noun for nouns in NOUNS.values() for noun in nouns):
        assert len(tokens(tokenizer, f" {noun}")) <= 3


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>",
        "Ünïcode – 漢字 \U0001f600",
        "x\n\n  y\t z",
        "\\[ \\boxed{\\frac{1}{2}} \\]",
        "print(((12+3)*4)%100)",
        "",
    ],
)
def test_decoding_restores_the_encoded_text(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == unicodedata.normalize(
        "NFC", text
    )


def test_control_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 2 and 259 < len(tokenizer) <= 1024
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"][0] == 1
    assert not set(encode_tool_text(tokenizer, "<|im_end|><|im_start|><|endoftext|>")) & {0, 1, 2}


def test_chat_template_renders_as_the_qwen_template(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why <think>?\n'q'"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy <think>?\n'q'<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "x"}], tokenize=False)
    assert whole == rendered + "x<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages[1:], tokenize=False).startswith(
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n"
    )


def test_the_model_is_a_qwen2_of_one_to_three_million_parameters(directory):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    assert type(model).__name__ == "Qwen2ForCausalLM" and 1e6 < model.num_parameters() < 3e6
    assert model.config.tie_word_embeddings and model.config.vocab_size == 1024
    assert model.generation_config.eos_token_id == [2, 0] and model.generation_config.pad_token_id == 0
    assert str(model.dtype) == "torch.float32"


def test_a_head_size_that_vllm_does_not_support_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="head size"):
        make_tiny_model(["a"], tmp_path / "x", TinyModelSettings(hidden=192, heads=4))
    assert not list(tmp_path.iterdir())


def test_the_fine_tuning_environment_gives_the_same_ids(directory, tokenizer):
    """transformers 5.6 (fine-tuning) and 5.23 (rollout) choose tokenizer classes differently; the ids must agree."""
    python = ROOT / ".venv/sft/bin/python"
    if not python.exists():
        pytest.skip("no .venv/sft")
    text = '<think>find it.</think><search>city Bal</search><result>\n"A"\nx (1+2)'
    text += " \\[ \\boxed{\\frac{3}{4}} \\]\n</result>"
    script = (
        "import json,sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "print(json.dumps(t(sys.argv[2], add_special_tokens=False)['input_ids']))"
    )
    done = subprocess.run(
        [python, "-c", script, directory, text], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_copying_model_attends_to_what_followed_the_same_token_before(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    settings = TinyModelSettings(seed=5, hidden=128, heads=4, intermediate=256, copying=True)
    make_tiny_model(sample_text(), tmp_path / "base", settings)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    once = torch.randint(300, 900, (8, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = model(input_ids=torch.cat([once, once], dim=1), output_attentions=True).attentions
    previous = attention[0][:, 0].diagonal(offset=-1, dim1=1, dim2=2)
    followed = attention[1][:, 0].diagonal(offset=-39, dim1=1, dim2=2)[:, 1:]
    assert previous.mean() > 0.95 and followed.mean() > 0.3  # each of 60 positions on average: 0.02
