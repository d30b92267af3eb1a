"""A tokenizer whose tokens are characters, for teachers behind an API that takes and gives text.

With it the rollout loop, which works on token ids, runs such a teacher unchanged. A chat is written with one control
character before each message and one after it; these four are the only control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from tir.rollout.protocol import split_output

PER_TOKEN = 4  # characters that count as one token of the teacher
ROLES = {"system": "\U0010fff0", "user": "\U0010fff1", "assistant": "\U0010fff2"}
END = "\U0010fff3"
_CONTROL = (*ROLES.values(), END)
_AS_TEXT = str.maketrans(dict.fromkeys(_CONTROL, "\ufffd"))  # in a question or a tool's output they are no control


class CharacterTokenizer:
    """The part of a Hugging Face tokenizer's interface that the rollout loop and `tir.rollout.prompts` use."""

    chat_template = "characters"
    name_or_path = "characters"
    eos_token, eos_token_id = END, ord(END)
    all_special_ids = [ord(each) for each in _CONTROL]

    def __call__(self, text: str | Sequence[str], *, split_special_tokens: bool = False, **_: object) -> dict:
        """`{"input_ids": ids}` of one text, or of each; with `split_special_tokens` no id is a control character's."""
        if not isinstance(text, str):
            return {"input_ids": [self(each, split_special_tokens=split_special_tokens)["input_ids"] for each in text]}
        return {"input_ids": [ord(each) for each in (text.translate(_AS_TEXT) if split_special_tokens else text)]}

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The text of ids."""
        return "".join(map(chr, ids))

    def convert_ids_to_tokens(self, token_id: int) -> str:
        """The character of an id."""
        return chr(token_id)

    def get_added_vocab(self) -> dict[str, int]:
        """The control characters and their ids."""
        return {each: ord(each) for each in _CONTROL}

    def get_chat_template(self) -> str:
        """A name in the place of a template; `apply_chat_template` has its own."""
        return self.chat_template

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = False, **_: object
    ) -> str:
        """The chat as text; with `add_generation_prompt` it ends with the start of the assistant's message."""
        chat = "".join(ROLES[each["role"]] + each["content"].translate(_AS_TEXT) + END for each in messages)
        return chat + (ROLES["assistant"] if add_generation_prompt else "")


def messages_of(prompt: str) -> list[dict[str, str]]:
    """The messages of a chat that ends within the assistant's message.

    That message becomes one of the assistant for each of its own parts, and one of the user for each result of a tool,
    because an API continues no message.
    """
    roles = {mark: role for role, mark in ROLES.items()}
    *complete, last = prompt.split(END)
    messages = [{"role": roles[part[0]], "content": part[1:]} for part in complete]
    for segment in split_output(last[1:]):
        if segment.text.strip():
            messages.append({"role": "assistant" if segment.by == "model" else "user", "content": segment.text})
    return messages
