r"""A tokenizer and a Qwen2 model small enough to learn the protocol on two CPU cores in minutes.

Tokenizer: byte-level BPE with a few hundred tokens, of transformers' class `Qwen2Tokenizer` (version 5.23 uses this
class, with Qwen's pre-tokenisation, for every Qwen2 model). The merges are restricted so that the model can learn to
copy. Digits are single tokens. A capitalised name is never merged with the space before it, so it splits the same way
in a passage, a query and an answer. `<`, `>` and `/` are never merged, so each protocol tag is several tokens, as in
Qwen2.5. To get such merges, training uses a finer pre-tokenisation than encoding does. The chat template renders like
LLaMA-Factory's `qwen` template. With `tiny_model.ranks` the vocabulary is read from a file instead, e.g. Qwen2.5's.

Model: `Qwen2ForCausalLM` with tied embeddings, initialised from a seed, if `tiny_model.copying` is set with heads that
copy. vLLM's CPU backend supports only some head sizes (32, 64, 96, 128).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tir.common.errors import ConfigError
from tir.common.files import Scratch
from tir.common.model_files import write_manifest
from tir.common.records import file_digest
from tir.world.ranks import CONTROLS

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

    from tir.config.world import TinyModelSettings

PAD, START, END = CONTROLS
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\n"
    + DEFAULT_SYSTEM
    + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Qwen2's pre-tokenisation, which `Qwen2Tokenizer` uses even if the saved file has another one.
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A name without the space before it | a word with it | a backslash with a bracket | any other single character.
_TRAINING_PATTERN = r"[A-Z][a-z]*| ?[a-z]+| ?\\[\[\]]?|\s|[^\sA-Za-z]"


def train_tokenizer(text: Iterable[str], vocab_size: int):
    """Train the byte-level BPE on `text`. Returns a `tokenizers.Tokenizer`; the same text gives the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    qwen = pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated")
    restricted = pre_tokenizers.Split(Regex(_TRAINING_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([qwen, restricted, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([qwen, byte_level])
    return tokenizer


def ranked_tokenizer(ranks: str | Path):
    """The byte-level BPE of a file of ranks (see `tir.world.ranks`), with Qwen2's pre-tokenisation."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    from tir.world.ranks import tokenizer_of

    tokenizer = tokenizer_of(ranks)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def make_tiny_model(text: Iterable[str], directory: str | Path, settings: TinyModelSettings) -> None:
    """Write tokenizer and model as a Hugging Face directory, byte-identical for the same arguments.

    The directory is renamed into place when complete and replaces an existing one. Raises `ConfigError` for a head size
    that vLLM's CPU backend does not support, and for fewer embeddings than the tokenizer has tokens.
    """
    if settings.hidden % settings.heads or settings.hidden // settings.heads not in (32, 64, 96, 128):
        raise ConfigError(
            "vLLM does not support this head size on a CPU",
            where="tiny_model.heads",
            why=f"hidden / heads = {settings.hidden} / {settings.heads} is not 32, 64, 96 or 128",
            remedy="tiny_model: {hidden: 192, heads: 6}",
        )
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(f".{directory.name}.", directory.parent) as scratch:
        unfinished = scratch / "model"
        unfinished.mkdir()
        ranks = settings.ranks
        tokenizer = ranked_tokenizer(ranks) if ranks else train_tokenizer(text, settings.vocab_size)
        if tokenizer.get_vocab_size() > settings.vocab_size:
            raise ConfigError(
                "fewer embeddings than tokens",
                where="tiny_model.vocab_size",
                why=f"{ranks} has {tokenizer.get_vocab_size():,} tokens with the control tokens",
                remedy="tiny_model: {vocab_size: 151936}  # as many embeddings as Qwen2.5-3B has",
            )
        _write_tokenizer(tokenizer, unfinished, settings)
        _write_model(unfinished, settings, pad=tokenizer.token_to_id(PAD), end=tokenizer.token_to_id(END))
        digest = file_digest(unfinished / "tokenizer.json")
        write_manifest(unfinished, model="base", tokenizer_sha256=digest, settings=settings.model_dump(mode="json"))
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)


def _write_tokenizer(tokenizer, directory: Path, settings: TinyModelSettings) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "model_max_length": settings.max_positions,
                "eos_token": END,
                "pad_token": PAD,
                "padding_side": "right",
                "clean_up_tokenization_spaces": False,
                "additional_special_tokens": [START, END],
                "chat_template": CHAT_TEMPLATE,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


def _write_model(directory: Path, settings: TinyModelSettings, *, pad: int, end: int) -> None:
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads or settings.heads,
        max_position_embeddings=settings.max_positions,
        initializer_range=settings.initializer_range,
        rope_theta=settings.rope_theta,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = Qwen2ForCausalLM(config)
        if settings.copying:
            _make_copying(model)
    model.generation_config = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, do_sample=False)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read


def _make_copying(model: Qwen2ForCausalLM) -> None:
    """Change the initial weights so that heads 0 of the first two layers copy: an induction head (Olsson et al., 2022).

    In layer 0 the head attends to the previous token and writes that token's identity into a subspace of the residual
    stream. In layer 1 the head attends to the token that followed an earlier occurrence of the present one, and
    predicts it. All branches are scaled down, so that the random ones do not hide what these heads write.
    """
    import torch

    first, second = (layer.self_attn for layer in model.model.layers[:2])
    width, hidden = first.head_dim, model.config.hidden_size
    angles = model.config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)  # per position
    basis, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    present, previous = basis[:, :width], basis[:, width : 2 * width]  # identities of this token and of the one before
    scale = model.model.embed_tokens.weight.detach().std()
    head, half = slice(0, width), width // 2
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.1
            layer.mlp.down_proj.weight *= 0.1
        # Biases alone decide: the rotation makes query and key equal where the key is one position earlier.
        for projection, phase in ((first.q_proj, -angles), (first.k_proj, torch.zeros(half))):
            projection.weight[head] = 0.0
            projection.bias[head] = 9.0 * torch.cat([torch.cos(phase), torch.sin(phase)])
        first.v_proj.weight[head] = present.T
        first.o_proj.weight[:, head] = scale * previous
        # Compare identities in the dimensions that hardly rotate over the length of a trajectory.
        slow = (angles < 0.015).repeat(2).unsqueeze(1)
        second.q_proj.weight[head] = 2.5 * slow * present.T
        second.k_proj.weight[head] = 2.5 * slow * previous.T
        second.v_proj.weight[head] = present.T
        second.o_proj.weight[:, head] = 1.5 * scale * present
