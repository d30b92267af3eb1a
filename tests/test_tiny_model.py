"""The tiny tokenizer and model: what splits where, what is reproducible, what other versions load."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from random import Random

import pytest

from tir.errors import ConfigError
from tir.protocol import TAGS, encode_tool_text, render_result
from tir.sft.render import prompt_text
from tir.tiny_model import DEFAULT_SYSTEM, TinyModelSettings, make_tiny_model
from tir.world.drafts import Habits, python_draft, search_draft
from tir.world.entities import WorldSettings, build_world, passages
from tir.world.names import syllables_apart
from tir.world.problems import draw
from tir.world.questions import all_questions


SETTINGS = TinyModelSettings(seed=5, vocab_size=640)
ROOT = Path(__file__).parents[1]


def sample_text() -> list[str]:
    """Passages and trajectories of a small world, names broken apart."""
    world, random = build_world(WorldSettings(sft_clusters=60, benchmark_rows=6, rl_train_rows=12, rl_validation_rows=6)), Random(0)
    text = [row["contents"] for row in passages(world)]
    drafts = [search_draft(question, random, Habits()) for hops in (1, 2) for question in all_questions(world, "sft", hops, random)]
    drafts += [python_draft(problem, random, Habits())
               for problem in draw(random, {"story:2": 1, "solve:2": 1, "remainder:3": 1}, "sft", 300)]
    text += ["\n".join(("system", "user", draft.question, "assistant", *draft.turns, render_result("Done"))) for draft in drafts]
    return [syllables_apart(item) for item in text]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "base"
    make_tiny_model(sample_text(), path, SETTINGS)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_made_twice_it_is_the_same_to_the_byte(directory, tmp_path):
    make_tiny_model(sample_text(), tmp_path / "again", SETTINGS)
    files = sorted(path.name for path in directory.iterdir())
    assert files == ["config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json"]
    assert all((directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_another_seed_gives_other_weights_and_the_same_tokenizer(directory, tmp_path):
    make_tiny_model(sample_text(), tmp_path / "other", TinyModelSettings(seed=6, vocab_size=640))
    ours, other = (json.loads((path / "manifest.json").read_text()) for path in (directory, tmp_path / "other"))
    assert ours["sha256"] != other["sha256"] and ours["tokenizer_sha256"] == other["tokenizer_sha256"]


def test_no_tag_is_a_single_token(tokenizer):
    for tag in TAGS:
        assert pieces(tokenizer, f"<{tag}>")[0] == "<" and pieces(tokenizer, f"<{tag}>")[-1] == ">"
        assert len(pieces(tokenizer, f"<{tag}>")) >= 3 and len(pieces(tokenizer, f"</{tag}>")) >= 4
    vocabulary = tokenizer.get_vocab()
    assert not [token for token in vocabulary if len(token) > 1 and set(token) & set("<>/") and "|" not in token]


def test_digits_stand_alone_and_names_split_at_their_syllables(tokenizer):
    assert pieces(tokenizer, "1234") == ["1", "2", "3", "4"]
    world = build_world(WorldSettings(seed=9, sft_clusters=100))
    names = [entity.name for entity in world.entities() if entity.kind == "city"]
    split = [pieces(tokenizer, name) == syllables_apart(name).split("\n") for name in names]
    assert sum(split) > 0.85 * len(split)
    for name in names[:50]:  # the same pieces wherever the name stands
        alone = pieces(tokenizer, name)
        for text in (f" {name}", f'"{name}"', f"<search>city {name}</search>", f"{{{name}}}"):
            inside = pieces(tokenizer, text)
            assert any(inside[start : start + len(alone)] == alone for start in range(len(inside))), (text, inside)


@pytest.mark.parametrize("text", ["<think>a</think>", "Ünïcode – 漢字 \U0001f600", "x\n\n  y\t z", "\\[ \\boxed{\\frac{1}{2}} \\]",
                                  "print(((12+3)*4)%100)", ""])
def test_text_survives_encoding(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_control_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 2 and len(tokenizer) == 640
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"][0] == 1
    assert not set(encode_tool_text(tokenizer, "<|im_end|><|im_start|><|endoftext|>")) & {0, 1, 2}


def test_chat_template_renders_as_the_qwen_template(tokenizer):
    row = {"instruction": "Be brief.", "input": "Why <think>?\n'q'", "output": "x"}
    messages = [{"role": "system", "content": row["instruction"]}, {"role": "user", "content": row["input"]}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt_text(row, "system_role")
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "x"}], tokenize=False)
    assert whole == rendered + "x<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages[1:], tokenize=False).startswith(
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n")


def test_model_is_an_ordinary_qwen2(directory):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    assert type(model).__name__ == "Qwen2ForCausalLM" and 1e6 < model.num_parameters() < 3e6
    assert model.config.tie_word_embeddings and model.config.vocab_size == 640
    assert model.generation_config.eos_token_id == [2, 0] and model.generation_config.pad_token_id == 0
    assert str(model.dtype) == "torch.float32"


def test_a_head_size_that_cannot_be_served_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="head size"):
        make_tiny_model(["a"], tmp_path / "x", TinyModelSettings(hidden=192, heads=4))
    assert not list(tmp_path.iterdir())


def test_the_other_environment_reads_the_same_ids(directory, tokenizer):
    """transformers 5.6 (fine-tuning) and 5.23 (rollout) choose tokenizer classes differently; the ids must agree."""
    python = ROOT / ".venv/sft/bin/python"
    if not python.exists():
        pytest.skip("no .venv/sft")
    text = "<think>find it.</think><search>city Balbabel</search><result>\n\"A\"\nx (1+2) \\[ \\boxed{\\frac{3}{4}} \\]\n</result>"
    script = ("import json,sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
              "print(json.dumps(t(sys.argv[2], add_special_tokens=False)['input_ids']))")
    done = subprocess.run([python, "-c", script, directory, text], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == tokenizer(text, add_special_tokens=False)["input_ids"]
