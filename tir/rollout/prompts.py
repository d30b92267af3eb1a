"""Chat rendering through the tokenizer's own template, the same for fine-tuning, reinforcement learning and evaluation.

A prompt is a system text and a question, rendered up to the start of the assistant's turn. The turn itself is never
rendered: fine-tuning and the rollout append the ids of its segments to the prompt, and end it with the template's
end-of-turn token. So a template that changes assistant turns (trims them, removes thoughts) does not change a response.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import sys
from dataclasses import dataclass
from functools import lru_cache

from tir.common.errors import DataError
from tir.common.model_files import no_chat_template
from tir.rollout.protocol import control_ids, decode, encode_inside

_MARK = "d41d8cd98f"  # a message's content, used to find its place in the rendered template
# Some templates (Llama 3.1) write the current date into the prompt. A fixed date keeps prompts the same every day.
_DATE = datetime.datetime(2024, 7, 26)
_CURRENT_DATE = re.compile(r"""strftime_now\((['"])(.*?)\1\)""")


@dataclass(frozen=True)
class EndOfTurn:
    """How a template ends the assistant's turn.

    Attributes:
        text: all text after the content, e.g. `<|im_end|>` and a line break.
        closing: this text up to and including its first control token; the model generates it.
        token_id: this control token, which ends generation.
    """

    text: str
    closing: str
    token_id: int


def render_prompt(tokenizer, system_prompt: str, question: str) -> list[int]:
    """Prompt ids up to the start of the assistant's turn; a beginning-of-text token comes only from the template."""
    return tokenizer(prompt_text(tokenizer, system_prompt, question), add_special_tokens=False)["input_ids"]


def prompt_text(tokenizer, system_prompt: str, question: str) -> str:
    """The prompt as text.

    For a template without a system role, the user's message starts with the system text and an empty line.

    Raises `DataError` if the tokenizer has no chat template.
    """
    template = _template(tokenizer)
    return _render(tokenizer, template, _messages(tokenizer, template, system_prompt, question), True)


def end_of_turn(tokenizer) -> EndOfTurn:
    """How the template ends the assistant's turn; if it writes no control token there, the end-of-text token.

    Raises `DataError` if the template omits the turn, or if there is neither a control token nor an end-of-text token.
    """
    return _end_of_turn(tokenizer, _template(tokenizer))


def refuse_open_thought(tokenizer) -> None:
    """Raise `DataError` if the template opens a thought at the start of the assistant's turn, before training.

    Training rows and the reward expect that the model writes the first `<think>` itself.
    """
    prompt = _render(tokenizer, _template(tokenizer), [{"role": "user", "content": _MARK}], True)
    start = prompt.rpartition(_MARK)[2]
    if start.count("<think>") > start.count("</think>"):
        raise DataError(
            "the chat template opens a thought",
            where=f"chat template of {tokenizer.name_or_path}",
            why=f"the assistant's turn starts with {start!r}, and trajectories open their thoughts themselves",
            remedy="copy the model (kind: local), and remove <think> from the start of the turn in its chat template",
        )


@lru_cache(maxsize=32)
def _end_of_turn(tokenizer, template: str) -> EndOfTurn:
    answer = {"role": "assistant", "content": _MARK}
    rendered = _render(tokenizer, template, [*_messages(tokenizer, template, "s", "q"), answer], False)
    _, mark, text = rendered.rpartition(_MARK)
    control = control_ids(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if mark and (ends := [token_id for token_id in ids if token_id in control]):
        token = tokenizer.convert_ids_to_tokens(ends[0])
        return EndOfTurn(text, text[: text.index(token) + len(token)], ends[0])
    if not mark or tokenizer.eos_token is None:
        raise DataError(
            "the end of the assistant's turn is unknown",
            where=f"chat template of {tokenizer.name_or_path}",
            why="it writes no control token after the turn, and the tokenizer has no eos_token"
            if mark
            else "it does not render the assistant's message",
            remedy="write {{ eos_token }} after the assistant's message in the template, and set eos_token in "
            "tokenizer_config.json",
        )
    return EndOfTurn(tokenizer.eos_token, tokenizer.eos_token, tokenizer.eos_token_id)


def _messages(tokenizer, template: str, system_prompt: str, question: str) -> list[dict[str, str]]:
    if _has_system_role(tokenizer, template):
        return [{"role": "system", "content": system_prompt}, {"role": "user", "content": question}]
    return [{"role": "user", "content": f"{system_prompt}\n\n{question}"}]


@lru_cache(maxsize=32)
def _has_system_role(tokenizer, template: str) -> bool:
    """Whether the template renders a system message; prints a line if it raises an error or omits the message."""
    messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "q"}]
    with contextlib.suppress(DataError):
        if _MARK in _render(tokenizer, template, messages, True):
            return True
    print(
        f"{tokenizer.name_or_path or 'tokenizer'}: the chat template has no system role; the user's message starts "
        "with the system prompt",
        file=sys.stderr,
    )
    return False


def _template(tokenizer) -> str:
    if not tokenizer.chat_template:
        raise no_chat_template(tokenizer.name_or_path)
    return _CURRENT_DATE.sub(lambda call: repr(_DATE.strftime(call[2])), tokenizer.get_chat_template())


def _render(tokenizer, template: str, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError) as error:  # a template for tool use may need more than messages
        raise DataError(
            "the chat template cannot render a plain chat",
            where=f"chat template of {tokenizer.name_or_path}",
            why=str(error),
            remedy="put another template into chat_template.jinja of the model's directory",
        ) from error


def check_keeps_text(tokenizer) -> None:
    """Check that spaces and line breaks remain when a text becomes tokens and text again; raises `DataError`."""
    text = "<think>so 5 </think>\n<python>1 + 1\n</python>"
    again = decode(tokenizer, encode_inside(tokenizer, [text])[0])
    if any(again.count(space) != text.count(space) for space in " \n"):
        raise DataError(
            "the tokenizer loses spaces or line breaks",
            where=str(tokenizer.name_or_path),
            why=f"{text!r} becomes {again!r} with the class {type(tokenizer).__name__}",
            remedy='a copy of the model (kind: local) whose tokenizer_config.json has "tokenizer_class": '
            '"PreTrainedTokenizerFast"',
        )
