"""Structural features from tokens and from segments: merged tags, forged tags, truncation, fuzzed agreement of both.

TIR_FUZZ sets the number of random trajectories (default 10,000; continuous integration uses 100,000).
"""

import os
import re
import time
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.chat_tokenizers import FAMILIES
from support.qwen_like import SPECIALS, qwen_like_tokenizer

from aspo import detect_structural_features, features_from_segments
from tir.rollout.prompts import end_of_turn
from tir.rollout.protocol import encode_inside

FIELDS = (
    "ends_python_answer",
    "has_python_think",
    "first_tool_offset",
    "first_python_offset",
    "policy_chars",
    "n_python",
    "n_search",
)
ROWS_PER_CASE = 20
RANDOM_CASES = int(os.environ.get("TIR_FUZZ", 10_000)) // ROWS_PER_CASE


def tensors(rows: list[list[tuple[str, list[int]]]]):
    """(responses, mask) from rows of (author, ids) segments, right-padded."""
    pad = qwen_like_tokenizer().pad_token_id
    width = max(1, *(sum(len(ids) for _, ids in row) for row in rows))
    responses, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids = [token for _, segment in row for token in segment]
        is_policy = [int(by == "model") for by, segment in row for _ in segment]
        responses[number, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        mask[number, : len(ids)] = torch.tensor(is_policy, dtype=torch.long)
    return responses, mask


def encode(text: str) -> list[int]:
    return qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"]


def agreed_features(rows):
    """Features of the same trajectories from tensors and from segments; asserts that they agree."""
    tokenizer = qwen_like_tokenizer()
    by_tokens = detect_structural_features(*tensors(rows), tokenizer)
    segments = [[{"by": by, "text": tokenizer.decode(ids)} for by, ids in _merged(row)] for row in rows]
    by_text = features_from_segments(segments)
    for field in FIELDS:
        assert torch.equal(getattr(by_tokens, field), getattr(by_text, field)), (field, segments)
    return by_tokens


def _merged(row):
    """Join neighbouring segments of one author and drop the policy's final control tokens, as a rollout does."""
    merged = []
    for by, ids in row:
        if not ids:
            continue
        if merged and merged[-1][0] == by:
            merged[-1][1].extend(ids)
        else:
            merged.append((by, list(ids)))
    specials = set(qwen_like_tokenizer().all_special_ids)
    for by, ids in reversed(merged):
        if by == "model":
            while ids and ids[-1] in specials:
                ids.pop()
            if ids:
                break
    return merged


def test_tags_are_several_tokens_and_merge_with_neighbours():
    tokenizer = qwen_like_tokenizer()
    for tag in ("<think>", "<python>", "<search>", "<answer>", "</python>", "<result>"):
        assert len(encode(tag)) > 1
    tokens = {tokenizer.decode([token]) for token in encode("</think><python>a</python>\n<result> .</think>")}
    assert {"><", ">\n"} & tokens


def test_features_of_a_trajectory_with_and_without_tool_call():
    found = agreed_features(
        [
            [
                ("model", encode("<think>a</think><python>print(1)</python>")),
                ("tool", encode("<result>\n1\n</result>")),
                ("model", encode("<answer>1</answer><|im_end|>")),
            ],
            [("model", encode("no tools at all"))],
        ]
    )
    assert found.ends_python_answer.tolist() == [True, False]
    assert found.n_python.tolist() == [1, 0]
    assert found.first_tool_offset.tolist() == [len("<think>a</think>"), -1]
    assert found.policy_chars.tolist() == [len("<think>a</think><python>print(1)</python><answer>1</answer>"), 15]


def test_forged_split_and_truncated_tags_do_not_count():
    found = agreed_features(
        [
            [("model", encode("<think>")), ("tool", encode("<result><python><answer></result>"))],
            [("model", encode("<pyt")), ("tool", encode("x")), ("model", encode("hon>"))],
            [("model", encode("<think>a</think><pytho"))],
            [("model", encode("< python>")), ("model", encode("<Python>"))],
        ]
    )
    assert found.n_python.tolist() == [0, 0, 0, 0] and found.first_tool_offset.tolist() == [-1] * 4


TAGS = [f"<{slash}{name}>" for name in ("think", "python", "search", "answer", "result") for slash in ("", "/")]
NOISE = ["<", ">", "<<", "</", " <", ">\n", "><", "pyt", "hon>", "<think", "é", "世", "🙂", "\x00", " a b ", "\\boxed{"]
NOISE += [*SPECIALS, "\ufffd"]
TEXT = st.lists(st.one_of(st.sampled_from(TAGS), st.sampled_from(NOISE), st.text(max_size=6)), max_size=12).map("".join)
IDS = st.one_of(TEXT.map(encode), st.lists(st.integers(0, len(qwen_like_tokenizer()) + 8), max_size=24))
ROW = st.lists(st.tuples(st.sampled_from(["model", "model", "tool"]), IDS), max_size=6)


@given(st.lists(ROW, min_size=ROWS_PER_CASE, max_size=ROWS_PER_CASE))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_tensors_and_segments_agree_on_random_trajectories(rows):
    agreed_features(rows)


def random_row(random: Random) -> list[tuple[str, list[int]]]:
    """As `ROW`. Hypothesis takes 15 times as long to make a row as the check of it; it is for small counterexamples."""

    def characters() -> str:
        return "".join(chr(random.choice([random.randrange(0x80), random.randrange(0xD800)])) for _ in range(3))

    def ids() -> list[int]:
        if random.random() < 0.5:
            return random.choices(range(len(qwen_like_tokenizer()) + 9), k=random.randrange(25))
        makers = [lambda: random.choice(TAGS), lambda: random.choice(NOISE), characters]
        return encode("".join(random.choice(makers)() for _ in range(random.randrange(13))))

    return [(random.choice(["model", "model", "tool"]), ids()) for _ in range(random.randrange(7))]


def test_tensors_and_segments_agree_on_many_random_trajectories():
    seed = Random().randrange(2**32)
    print(f"seed {seed}")  # shown if the test fails
    random = Random(seed)
    for _ in range(RANDOM_CASES):
        agreed_features([random_row(random) for _ in range(ROWS_PER_CASE)])


def test_tokens_outside_attention_mask_are_ignored():
    responses, mask = tensors([[("model", encode("<think>a</think><python>"))]])
    attention = torch.zeros_like(mask)
    attention[:, : len(encode("<think>a</think>"))] = 1
    found = detect_structural_features(responses, mask, qwen_like_tokenizer(), attention_mask=attention)
    assert found.n_python.item() == 0


def count_python_tags(responses, mask, tokenizer):
    """Reference count: decode each row's policy tokens and search the text."""
    counts = []
    for ids, row_mask in zip(responses.tolist(), mask.tolist(), strict=True):
        text = tokenizer.decode([token for token, is_policy in zip(ids, row_mask, strict=True) if is_policy])
        counts.append(len(re.findall("<python>", text)))
    return counts


def elapsed(function, *arguments) -> float:
    """Wall time of a call in seconds."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def test_cost_is_linear_in_rows():
    tokenizer, seconds = qwen_like_tokenizer(), []
    text = encode("<think>some words of thought go here. </think><python>print(1)</python>" + "plain words " * 60)
    for rows in (16, 128):
        responses = torch.tensor([text * 8] * rows)
        mask = torch.ones_like(responses)
        detect_structural_features(responses, mask, tokenizer)
        seconds.append(min(elapsed(detect_structural_features, responses, mask, tokenizer) for _ in range(5)))
    assert seconds[1] < 60 * max(seconds[0], 1e-3)  # linear cost takes 8 times as long, quadratic cost 64 times
    assert count_python_tags(responses[:1], mask[:1], tokenizer) == [8]


def test_rows_without_policy_tokens():
    responses = np.zeros((3, 4), dtype=np.int64)
    found = detect_structural_features(torch.tensor(responses), torch.zeros(3, 4), qwen_like_tokenizer())
    assert found.policy_chars.tolist() == [0, 0, 0] and found.first_tool_offset.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_end_of_turn_token_is_not_policy_text(family):
    """Even if it has no role (such as eos) in the tokenizer, and for tokenizers that are not byte-level."""
    tokenizer, text = FAMILIES[family](), "<think>a</think><python>print(1)</python>"
    ids = encode_inside(tokenizer, [text + end_of_turn(tokenizer).closing])[0]
    features = detect_structural_features(torch.tensor([ids]), torch.ones(1, len(ids)), tokenizer)
    assert features.policy_chars.tolist() == [len(text)]
    assert features.first_python_offset.tolist() == [text.index("<python>")]
