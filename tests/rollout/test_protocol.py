"""The protocol: parsing of actions, calls, answers and format faults, and encoding of tool text."""

import copy
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.forged import FORGED
from support.qwen_like import SPECIALS, qwen_like_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tir.rollout.protocol import (
    Segment,
    actions,
    encode_tool_text,
    executed_tools,
    extract_answer,
    first_tool_offset,
    format_fault,
    last_boxed,
    render_result,
    split_output,
    tool_call,
)

VALID = (
    r"<think>add</think><python>print(2+3)</python>"
    + render_result("5")
    + r"<think>so</think><answer>\[ \boxed{5} \]</answer>"
)


def test_all_functions_on_a_valid_trajectory():
    segments = split_output(VALID)
    assert [segment.by for segment in segments] == ["model", "tool", "model"]
    assert actions(segments) == ["think", "python", "think", "answer"]
    assert extract_answer(segments) == "5" and format_fault(segments) is None
    assert executed_tools(segments) == {"python": 1, "search": 0}
    assert first_tool_offset(segments) == len("<think>add</think>")


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("<python>print(1)</python>", ("python", "print(1)")),
        ("<search> who </search>\n", ("search", " who ")),
        ("<python>1</python><", ("python", "1")),
        ("<search>a</search>.\n\n", ("search", "a")),
        ("<python>1</python></search>", None),
        ("print(1)</python>", None),
        ("<python>a</python> more", None),
        ("<python>a<python>b</python>", ("python", "b")),
    ],
)
def test_tool_call(text, call):
    parsed = tool_call(text)
    assert (parsed and (parsed.tool, parsed.body)) == call


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{12}", "12"),
        (r"\boxed{\frac{1}{2}} or \boxed{3}", "3"),
        (r"\boxed{a", None),
        ("none", None),
        (r"\boxed {12}", "12"),
        (r"\boxed{1} \boxed{2", "1"),
    ],
)
def test_last_boxed(text, boxed):
    assert last_boxed(text) == boxed


def quadratic_last_boxed(text: str) -> str | None:
    """A slow reference: from each box's opening brace, last first, count braces until the depth is 0."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for position in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start:position]
    return None


@given(
    st.lists(
        st.sampled_from([r"\boxed{", r"\boxed {", "\\boxed\n{", r"\boxed", "{", "}", "}}", "x", " ", r"\frac{1}{2}"]),
        max_size=40,
    ).map("".join)
)
@settings(max_examples=1000, deadline=None)
def test_last_boxed_agrees_with_counting_braces(text):
    assert last_boxed(text) == quadratic_last_boxed(text)


def test_last_boxed_takes_linear_time():
    def seconds(count: int) -> float:
        text = r"\boxed{" * count
        started = time.process_time()
        last_boxed(text)
        return time.process_time() - started

    # 40 times the text: a linear function takes 40 times as long, a quadratic one 1,600 times.
    assert seconds(200_000) < 400 * max(seconds(5_000), 1e-4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (VALID.replace("</think>", ""), "think"),
        (VALID + "<answer>1</answer>", "answer"),
        (VALID.replace(r"\boxed{5}", "5"), "boxed"),
        (VALID.replace(render_result("5"), ""), "executed"),
        ("<answer>\\boxed{1}</answer>", "think"),
    ],
)
def test_format_faults(text, word):
    assert word in format_fault(split_output(text))


def with_payload(payload: str) -> list[Segment]:
    return [
        Segment("model", "<think>a</think><python>print(x)</python>"),
        Segment("tool", render_result(payload)),
        Segment("model", r"<answer>\boxed{7}</answer>"),
    ]


@given(st.lists(st.one_of(st.sampled_from(FORGED), st.text(max_size=20)), max_size=5).map("".join))
@settings(max_examples=300, deadline=None)
def test_tags_in_tool_text_do_not_change_what_is_parsed(payload):
    plain, forged = with_payload("1"), with_payload(payload)
    for parse in (actions, extract_answer, format_fault, executed_tools, first_tool_offset):
        assert parse(plain) == parse(forged)
    ids = encode_tool_text(qwen_like_tokenizer(), render_result(payload))
    assert set(ids).isdisjoint(qwen_like_tokenizer().all_special_ids)


def test_special_tokens_in_tool_text_are_encoded_as_text():
    tokenizer = qwen_like_tokenizer()
    for special in SPECIALS:
        assert tokenizer.decode(encode_tool_text(tokenizer, special)) == special


def test_control_tokens_not_marked_special_are_encoded_as_text_too():
    """Qwen2.5 has eight of them: <tool_call>, </tool_call>, <|fim_prefix|>, <|file_sep|> and others."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(qwen_like_tokenizer().backend_tokenizer), eos_token="<|im_end|>"
    )
    tokenizer.add_tokens(
        [AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "<|file_sep|>")]
    )
    control = set(tokenizer.get_added_vocab().values())
    for text in (
        "<tool_call>",
        "a<tool_<tool_call>call>b",
        "<|file_sep|><|im_end|><|file_sep|>",
        "<result>\n漢<|file_sep|>字\n</result>",
        "",
    ):
        ids = encode_tool_text(tokenizer, text)
        assert control.isdisjoint(ids) and tokenizer.decode(ids) == text
    assert not control.isdisjoint(tokenizer("<tool_call>")["input_ids"])
