r"""A tokenizer and a Qwen2 model small enough to learn the protocol on two CPU cores in minutes.

Tokenizer: byte-level BPE of a few hundred entries, of transformers' class `Qwen2Tokenizer` (its 5.23 forces that class,
with Qwen's pre-tokenisation, on every Qwen2 model). What merging may join decides what the model can learn: digits
stand alone (numbers can be copied), a capitalised name never joins the space before it (it splits the same way in a
passage, a query and an answer), and `<`, `>`, `/` never join anything, so each protocol tag is several tokens, as in
Qwen2.5's own vocabulary. Training therefore sees finer pieces than use does; the merges learned stay within them.
The chat template renders as LLaMA-Factory's `qwen` template does.

Model: `Qwen2ForCausalLM` with tied embeddings, freshly initialised from a seed. Head sizes are limited to what vLLM's
CPU backend serves (32, 64, ...).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tir.errors import ConfigError
from tir.model_files import write_manifest
from tir.records import file_digest

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Qwen2's pre-tokenisation, as `Qwen2Tokenizer` builds it whatever the saved file says.
_QWEN_PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# Names without their space | words with it | a backslash with its bracket | everything else one by one.
_TRAINING_PIECES = r"[A-Z][a-z]*| ?[a-z]+| ?\\[\[\]]?|\s|[^\sA-Za-z]"


@dataclass(frozen=True)
class TinyModelSettings:
    """Size of tokenizer and model.

    Attributes:
        seed: seed of the initial weights.
        vocab_size: tokenizer entries, three control tokens and 256 bytes included.
        hidden, layers, heads, intermediate: the transformer's sizes.
        max_positions: longest sequence in tokens.
        initializer_range: standard deviation of the initial weights; with the usual 0.02 a model this narrow takes
            several times as many steps before it begins to copy.
        rope_theta: base of the rotary position embedding.
    """

    seed: int = 0
    vocab_size: int = 700
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    intermediate: int = 384
    max_positions: int = 1024
    initializer_range: float = 0.06
    rope_theta: float = 10000.0


def train_tokenizer(text: Iterable[str], vocab_size: int):
    """Train the byte-level BPE on `text`; returns a `tokenizers.Tokenizer`, the same for the same text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    qwen = pre_tokenizers.Split(Regex(_QWEN_PIECES), behavior="isolated")
    finer = pre_tokenizers.Split(Regex(_TRAINING_PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([qwen, finer, byte_level])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[PAD, START, END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([qwen, byte_level])
    return tokenizer


def make_tiny_model(text: Iterable[str], directory: str | Path, settings: TinyModelSettings) -> None:
    """Write tokenizer and model as an ordinary Hugging Face directory, byte-identical for the same arguments.

    The directory appears complete or not at all; an existing one is replaced. Raises `ConfigError` for sizes that do
    not fit together.
    """
    if settings.hidden % settings.heads or settings.hidden // settings.heads not in (32, 64, 96, 128):
        raise ConfigError("head size not served on CPU", where="tiny_model.heads",
                          why=f"hidden {settings.hidden} / heads {settings.heads}", remedy="tiny_model: {hidden: 192, heads: 6}")
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        _write_tokenizer(train_tokenizer(text, settings.vocab_size), made, settings)
        _write_model(made, settings)
        write_manifest(made, model="base", tokenizer_sha256=file_digest(made / "tokenizer.json"), settings=asdict(settings))
        if directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)


def _write_tokenizer(tokenizer, directory: Path, settings: TinyModelSettings) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": settings.max_positions,
        "eos_token": END, "pad_token": PAD, "padding_side": "right", "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [START, END], "chat_template": CHAT_TEMPLATE,
    }, indent=1) + "\n", encoding="utf-8")


def _write_model(directory: Path, settings: TinyModelSettings) -> None:
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    pad, end = 0, 2  # the order of special tokens in the trainer
    config = Qwen2Config(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        max_position_embeddings=settings.max_positions, initializer_range=settings.initializer_range,
        rope_theta=settings.rope_theta, tie_word_embeddings=True, use_sliding_window=False,
        bos_token_id=None, eos_token_id=end, pad_token_id=pad, dtype="float32")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, do_sample=False)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
