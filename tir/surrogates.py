"""Lone surrogates: characters to Python and to JSON's escapes, and to no file, tokenizer or database.

A service that cuts a text at a length may cut an emoji in two, and `"\\ud83d"` is well-formed JSON. Such a text fails
where it is encoded, far from where it came from; so the half is replaced where the text enters.
"""

from __future__ import annotations

import re
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")  # JSON's reader has joined those that are a pair


def whole_text(text: str) -> str:
    """The text with U+FFFD for every lone surrogate."""
    try:
        text.encode()  # ten times as fast as the search, and nearly always enough
        return text
    except UnicodeEncodeError:
        return _LONE.sub("\ufffd", text)


def whole_json(value: Any) -> Any:
    """A JSON value with `whole_text` for each of its texts, keys too."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole_json(item) for item in value]
    if isinstance(value, dict):
        return {whole_text(key): whole_json(item) for key, item in value.items()}
    return value
