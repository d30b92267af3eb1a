"""Tokenizers with the special tokens and chat templates of several model families, trained on protocol text."""

import json
from functools import cache

from support.qwen_like import CORPUS, PATTERN, qwen_like_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Llama 3.1: the system message contains the date, contents are trimmed, a turn does not end with the end-of-text token.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'system' %}Today Date: {{ strftime_now('%d %b %Y') }}\n\n{% endif %}"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Mistral v0.3: the user's message contains the system text, and the assistant has no header.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {% if loop.first and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Gemma 2: a system message is an error.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _byte_level(template: str, specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; `add_special_tokens` prepends the first special token."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    first = specials[0]
    backend.post_processor = processors.TemplateProcessing(f"{first} $A", special_tokens=[(first, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=first, chat_template=template, **named)


@cache
def llama3_like() -> PreTrainedTokenizerFast:
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _byte_level(LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", *headers], eos_token="<|end_of_text|>")


@cache
def gemma_like() -> PreTrainedTokenizerFast:
    return _byte_level(GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], eos_token="<eos>")


@cache
def mistral_like() -> PreTrainedTokenizerFast:
    """A tokenizer like SentencePiece: `▁` for spaces, one at the start of a text, bytes for unknown characters."""
    spaces = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = spaces
    lines = [line for text in CORPUS for line in text.split("\n")]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=500, show_progress=False, max_token_length=12))
    learned = json.loads(trained.to_str())["model"]
    controls, raw = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys([*controls, *raw, *learned["vocab"]]))}
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = spaces
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=controls[3:], chat_template=MISTRAL, **named
    )


FAMILIES = {"chatml": qwen_like_tokenizer, "llama3": llama3_like, "mistral": mistral_like, "gemma": gemma_like}
