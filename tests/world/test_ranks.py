"""A tokenizer from a file of ranks: the merges that lead to each token, and Qwen2.5's own ids."""

import base64

import pytest
from support.paths import ROOT

from tir.common.errors import ConfigError, DataError
from tir.config.world import TinyModelSettings
from tir.world.ranks import merges_of, read_ranks
from tir.world.tiny_model import make_tiny_model, ranked_tokenizer

QWEN = ROOT / ".venv/qwen/qwen.tiktoken"
needs_qwen = pytest.mark.skipif(not QWEN.is_file(), reason=f"no {QWEN.relative_to(ROOT)}: run `make rehearsal`")


def write_ranks(path, *tokens: bytes):
    every = [*(bytes([byte]) for byte in range(256)), *tokens]
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(every)))
    return path


def test_the_merges_of_a_token_are_its_last_two_parts(tmp_path):
    """`the` comes from `th` + `e`, not from `t` + `he`, because `th` has the lower rank."""
    ranks = read_ranks(write_ranks(tmp_path / "ranks", b"th", b"he", b"the"))
    assert merges_of(ranks) == [(b"t", b"h"), (b"h", b"e"), (b"th", b"e")]


def test_a_file_that_is_not_one_of_ranks_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no merges lead to"):
        merges_of(read_ranks(write_ranks(tmp_path / "gap", b"xyz")))
    (tmp_path / "text").write_text("hello")
    for name in ("text", "missing"):
        with pytest.raises(DataError, match="make rehearsal"):
            read_ranks(tmp_path / name)


def test_fewer_embeddings_than_tokens_are_an_error(tmp_path):
    ranks = str(write_ranks(tmp_path / "ranks", *(b"a" * length for length in range(2, 10))))
    with pytest.raises(ConfigError, match="has 267 tokens"):
        make_tiny_model([], tmp_path / "model", TinyModelSettings(ranks=ranks, vocab_size=266))


@pytest.fixture(scope="module")
def qwen():
    return ranked_tokenizer(QWEN)


@needs_qwen
@pytest.mark.parametrize(
    "text, ids",
    [
        ("<python>", [27, 12669, 29]),
        ("</python>", [522, 12669, 29]),
        ("<think>", [13708, 766, 29]),
        ("</think>", [522, 26865, 29]),
        ("<search>", [27, 1836, 29]),
        (" <result>", [366, 1382, 29]),
        ("<|endoftext|><|im_start|>system<|im_end|>", [151643, 151644, 8948, 151645]),
        ("assistant", [77091]),
    ],
)
def test_qwens_ranks_give_qwens_ids(qwen, text, ids):
    """The ids are those of the published tokenizer of Qwen2.5-3B-Instruct."""
    assert qwen.encode(text).ids == ids


@needs_qwen
def test_any_text_survives_encoding(qwen):
    text = "$\\frac{1}{2}$ 安徽大学 naïve 🙂\r\n\t  x\u00a0y"
    assert qwen.decode(qwen.encode(text).ids) == text
