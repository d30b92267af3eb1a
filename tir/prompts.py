"""Chat rendering: system prompt and question to prompt ids, the same for training and evaluation."""

from __future__ import annotations


def render_prompt(tokenizer, system_prompt: str, question: str) -> list[int]:
    """Prompt ids ending in the assistant header, through the tokenizer's own chat template (ChatML for Qwen2.5)."""
    messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
