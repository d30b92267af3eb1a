"""Keys of services: read from the environment in one place, and removed from every text that a service sends back."""

from __future__ import annotations

import base64
import html
import json
import os
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from tir.common.errors import ConfigError

SEARCH, JUDGE, HELPER, HUB = "TAVILY_API_KEY", "JUDGE_API_KEY", "TIR_HELPER_KEY", "HF_TOKEN"
VARIABLES = (SEARCH, JUDGE, HELPER, HUB)
_SHOWN = "[key]"
# Number of consecutive characters of a key that are removed from a text, because a service may show a part of a key. In
# an answer the number is higher, so that ordinary words stay: a shorter key, such as EMPTY, is no secret.
_IN_ERROR, _IN_ANSWER = 8, 12


def read_key(variable: str) -> SecretStr | None:
    """The key in an environment variable, without white space around it; None if there is none.

    Raises `ConfigError`, which does not show the key, if it has a character that an HTTP header may not contain.
    """
    key = os.environ.get(variable, "").strip()
    wrong = next((number for number, each in enumerate(key, 1) if not "!" <= each <= "~"), None)
    if wrong:
        raise ConfigError(
            "not a valid key",
            where=f"${variable}",
            why=f"character {wrong} of {len(key)} is a blank, a control character or not ASCII",
            remedy=f"export {variable}=...  # the key alone, on one line",
        )
    return SecretStr(key) if key else None


class Redaction:
    """Removes a key from texts, also where it is cut, escaped or encoded.

    Args:
        key: the key; None: texts stay as they are.
    """

    def __init__(self, key: SecretStr | None):
        secret = key.get_secret_value() if key else ""
        self._from_error = _Remover(secret, min(_IN_ERROR, len(secret)))
        self._from_answer = _Remover(secret, _IN_ANSWER)

    def in_error(self, text: str) -> str:
        """A text without any 8 consecutive characters of the key."""
        return self._from_error.remove(text)

    def in_answer(self, value: Any) -> Any:
        """A JSON value whose texts and names have no 12 consecutive characters of the key."""
        if isinstance(value, str):
            return self._from_answer.remove(value)
        if isinstance(value, list):
            return [self.in_answer(item) for item in value]
        if isinstance(value, dict):
            return {self.in_answer(key): self.in_answer(item) for key, item in value.items()}
        return value


class _Remover:
    """Removes from texts all substrings of one length of a key in all its forms; nothing if the key is shorter."""

    def __init__(self, key: str, length: int):
        forms = [form.lower() for form in _forms(key)] if len(key) >= length > 0 else []
        self._length = length
        self._stretches = {form[at : at + length] for form in forms for at in range(len(form) - length + 1)}
        # Each of these substrings contains one of the following shorter ones. Most texts contain none: a fast test.
        size = (length + 1) // 2
        self._pieces = {form[at : at + size] for form in forms for at in range(0, len(form) - size + 1, size)}

    def remove(self, text: str) -> str:
        lower = text.lower()
        if not any(piece in lower for piece in self._pieces):
            return text
        if len(lower) != len(text):  # the small form of a few letters is longer
            lower = "".join(each.lower() if each.isascii() else each for each in text)
        kept, end = [], 0
        for start in range(len(text) - self._length + 1):
            if lower[start : start + self._length] in self._stretches:
                if start >= end:
                    kept += [text[end:start], _SHOWN]
                end = start + self._length
        return "".join([*kept, text[end:]])


def _forms(key: str) -> set[str]:
    """The key as it is, and as Python, JSON, URLs, HTML, base64 (after any text) and hexadecimal digits show it."""
    encoded = [base64.b64encode(b"x" * before + key.encode()).decode() for before in range(3)]
    return {
        key,
        repr(key)[1:-1],
        json.dumps(key)[1:-1],
        quote(key, safe=""),
        html.escape(key),
        key.encode().hex(),
        # Without the characters that also depend on what is before and after the key.
        *(text[4 * (before > 0) : -4] for before, text in enumerate(encoded) if len(text) > 12),
    }
