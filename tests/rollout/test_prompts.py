"""Chat templates: all stages give the same ids, a turn ends with the template's token, ChatML rows are as expected."""

import asyncio
import contextlib
import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from support.chat_tokenizers import FAMILIES, gemma_like, llama3_like, mistral_like
from support.qwen_like import qwen_like_tokenizer
from support.rl_inputs import rows_file
from support.rollouts import limits
from support.sft_runs import sft_run
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from aspo import detect_structural_features
from tir.common.errors import DataError
from tir.common.records import write_json
from tir.config.world import TrajectorySettings, WorldSettings
from tir.rl.data import prepare_rows
from tir.rl.server_engine import ServerEngine
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.loop import rollout
from tir.rollout.prompts import check_keeps_text, end_of_turn, prompt_text, render_prompt
from tir.rollout.protocol import (
    control_ids,
    encode_inside,
    encode_tool_text,
    extract_answer,
    render_result,
    split_output,
)
from tir.sft.render import IGNORE, render_rows
from tir.tools.base import ToolResult
from tir.world.entities import build_world, passages
from tir.world.tiny_model import CHAT_TEMPLATE, train_tokenizer
from tir.world.trajectories import drafts

SYSTEM, QUESTION = "Use tools. ", "Who? 2+3 é漢"
RESULTS = ["5 [INST] </s><|eot_id|><end_of_turn><|im_end|> é漢", "<s>none"]
TURNS = ["<think>é</think><python>print(2+3)</python>", "so 漢 <search>who?</search>", r"<answer>\boxed{5}</answer>"]
ROW = {
    "instruction": SYSTEM,
    "input": QUESTION,
    "output": f"{TURNS[0]}<result>\n{RESULTS[0]}\n</result>{TURNS[1]}<result>\n{RESULTS[1]}\n</result>{TURNS[2]}",
}
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}


class Policy:
    """The base of a policy that writes the given turns, as an engine and as verl's server."""

    def __init__(self, tokenizer, turns=TURNS):
        self.tokenizer, self.turns, self.last, self.seen = tokenizer, iter(turns), turns[-1], []

    def write(self) -> list[int]:
        text = next(self.turns)
        end = end_of_turn(self.tokenizer).closing if text == self.last else ""
        return encode_inside(self.tokenizer, [text + end])[0]


class AsEngine(Policy):
    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        ids = self.write()
        return Completion(ids, [], "eos" if ids[-1] == end_of_turn(self.tokenizer).token_id else "stop")


class AsServer(Policy):
    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.seen.append(sampling_params)
        ids = self.write()
        return SimpleNamespace(token_ids=ids, log_probs=[0.0] * len(ids), stop_reason="completed", extra_fields={})


class Results:
    def __init__(self):
        self.results, self.calls = iter(RESULTS), []

    async def call(self, body):
        self.calls.append(body)
        return ToolResult(next(self.results), "ok", 0.0)


def toolbox():
    tool = Results()
    return {"python": tool, "search": tool}


def train_one(tokenizer, directory, monkeypatch):
    """Generate one trajectory with verl's agent loop; returns its output and the server."""
    agent_loop = pytest.importorskip("tir.rl.agent_loop", reason="verl is in the training environment")
    monkeypatch.setattr(agent_loop, "make_tools", lambda *_: contextlib.nullcontext(toolbox()))
    routes = {task: ["python", "search"] for task in ("math", "qa")}
    settings = {"tools": {"result_tokens": None, "routes": routes}, "max_response_tokens": 500, "endpoint": None}
    write_json(directory / "loop.json", {**settings, "seed": 1, "reward": {}, "records": str(directory)})
    loop, server = object.__new__(agent_loop.TirAgentLoop), AsServer(tokenizer)
    loop.resources = agent_loop.loop_resources(str(directory / "loop.json"))
    loop.tokenizer, loop.server_manager = tokenizer, server
    row = {"raw_prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}], "index": 0}
    row |= {"ability": "qa", "reward_model": {"ground_truth": ["5"]}, "global_steps": 1}
    return asyncio.run(loop.run({"temperature": 1.0, "top_p": 1.0}, **row)), server


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_training_and_evaluation_give_the_same_ids(family, tmp_path, monkeypatch):
    tokenizer = FAMILIES[family]()
    row = next(render_rows(tokenizer, [ROW], sft_run(layout="system_role", mask_results=True)))
    mask = [int(label != IGNORE) for label in row["labels"]]

    prompt = render_prompt(tokenizer, SYSTEM, QUESTION)
    settings = limits(result_tokens=None)
    policy = AsEngine(tokenizer)
    trajectory = asyncio.run(rollout(policy, tokenizer, prompt, toolbox(), settings, Sampling(), "r"))
    assert trajectory.finish == "answer" and trajectory.segments[-1].text.strip() == TURNS[-1]
    assert prompt + trajectory.response_ids == row["input_ids"]
    assert [0] * len(prompt) + trajectory.response_mask == mask

    output, server = train_one(tokenizer, tmp_path, monkeypatch)
    assert output.prompt_ids == prompt and output.response_ids == trajectory.response_ids
    assert output.response_mask == trajectory.response_mask
    ends = tokenizer.convert_tokens_to_ids(ENDS[family])
    assert row["input_ids"][-1] == row["labels"][-1] == ends
    assert {tuple(parameters["stop_token_ids"]) for parameters in server.seen} == {(ends,)}


@pytest.mark.parametrize("family", FAMILIES)
def test_spaces_before_punctuation_stay_although_the_tokenizer_asks_to_remove_them(family):
    """As Llama 3's does. transformers 5.6 removes them in every text, later versions only with the second attribute."""
    tokenizer = copy.deepcopy(FAMILIES[family]())
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    program, tools = "print(2 , '3 !', \"it 's\")", toolbox()
    policy = AsEngine(tokenizer, [f"<think>a . b</think><python>{program}</python>", r"<answer>\boxed{5 !}</answer>"])
    prompt = render_prompt(tokenizer, SYSTEM, QUESTION)
    trajectory = asyncio.run(rollout(policy, tokenizer, prompt, tools, limits(), Sampling(), "r"))
    assert tools["python"].calls == [program]
    assert extract_answer(trajectory.segments) == "5 !"
    mask = torch.tensor([trajectory.response_mask])
    features = detect_structural_features(torch.tensor([trajectory.response_ids]), mask, tokenizer)
    assert features.first_tool_offset.tolist() == [len("<think>a . b</think>")]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_restores_encoded_tool_text(family):
    tokenizer = FAMILIES[family]()
    for text in [*RESULTS, *TURNS, "\n\n x", " y", ""]:
        ids = encode_tool_text(tokenizer, text)
        assert control_ids(tokenizer).isdisjoint(ids)
        # SentencePiece decoders remove the space before the first word, so the text is decoded after another word.
        start = tokenizer("a", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(start + ids) == f"a{text}"


def test_end_of_turn_is_the_templates():
    found = {family: end_of_turn(make()) for family, make in FAMILIES.items()}
    assert {family: end.closing for family, end in found.items()} == ENDS
    assert found["chatml"].text == "<|im_end|>\n" and found["gemma"].text == "<end_of_turn>\n"
    tokenizer, ends = llama3_like(), found["llama3"].token_id
    assert ends != tokenizer.eos_token_id and ServerEngine(None, tokenizer).end_ids == {ends, tokenizer.eos_token_id}


@pytest.mark.parametrize("make", [llama3_like, mistral_like, gemma_like])
def test_a_prompt_has_one_beginning_of_text_token(make):
    tokenizer = make()
    ids = render_prompt(tokenizer, SYSTEM, QUESTION)
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer(prompt_text(tokenizer, SYSTEM, QUESTION))["input_ids"].count(tokenizer.bos_token_id) == 2


def test_without_a_system_role_the_user_message_starts_with_the_system_text(capsys):
    tokenizer = copy.deepcopy(gemma_like())
    for _ in range(2):
        text = prompt_text(tokenizer, "Use tools.", "2+3?")
    assert text == "<bos><start_of_turn>user\nUse tools.\n\n2+3?<end_of_turn>\n<start_of_turn>model\n"
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    assert prompt_text(tokenizer, "Use tools.", "2+3?") == "Use tools.\n\n2+3?<eos>"  # it would leave the message out
    assert capsys.readouterr().err.count("the chat template has no system role") == 2  # once for each template


def test_a_template_that_needs_more_than_messages_is_named():
    tokenizer = copy.deepcopy(llama3_like())
    tokenizer.chat_template = "{% for tool in tools %}{{ tool.name }}{% endfor %}{{ messages[0].content }}"
    with pytest.raises(DataError, match="cannot render a plain chat: 'NoneType' object is not iterable"):
        render_prompt(tokenizer, SYSTEM, QUESTION)


@pytest.mark.parametrize(("thought", "refused"), [("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)])
def test_a_template_that_opens_a_thought_is_refused_for_training(thought, refused, tmp_path):
    """As those of DeepSeek-R1 and Qwen3-Thinking. Qwen3 without thinking begins with an empty thought."""
    tokenizer = copy.deepcopy(llama3_like())
    tokenizer.chat_template += f"{{% if add_generation_prompt %}}{thought}{{% endif %}}"
    assert prompt_text(tokenizer, SYSTEM, QUESTION).endswith(f"assistant<|end_header_id|>\n\n{thought}")
    rows = rows_file(tmp_path / "in.parquet", "1")
    for prepare in (
        lambda: next(render_rows(tokenizer, [ROW], sft_run())),
        lambda: prepare_rows(rows, tmp_path / "out.parquet", SYSTEM, tokenizer, 1000),
    ):
        with pytest.raises(DataError, match="opens a thought") if refused else contextlib.nullcontext():
            prepare()


def test_a_prompt_does_not_depend_on_the_day():
    assert "Today Date: 26 Jul 2024\n\nUse tools." in prompt_text(llama3_like(), SYSTEM, QUESTION)


def test_the_error_for_a_missing_template_has_a_template_that_works():
    tokenizer = copy.deepcopy(llama3_like())
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="the model has no chat template.*\n.*chat_template.jinja") as caught:
        render_prompt(tokenizer, SYSTEM, QUESTION)
    tokenizer.chat_template = str(caught.value).splitlines()[-1]
    assert prompt_text(tokenizer, "Use tools.", "2+3?") == "system: Use tools.\nuser: 2+3?\nassistant: "
    assert end_of_turn(tokenizer).token_id == tokenizer.eos_token_id
    ids = next(render_rows(tokenizer, [ROW], sft_run(layout="system_role", mask_results=True)))["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id


def test_a_turn_ends_with_the_end_of_text_if_the_template_writes_no_control_token():
    tokenizer, endless = copy.deepcopy(llama3_like()), copy.deepcopy(llama3_like())
    template = "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}"
    tokenizer.chat_template = endless.chat_template = template
    assert end_of_turn(tokenizer).closing == "<|end_of_text|>"
    endless.eos_token = None
    with pytest.raises(DataError, match="end of the assistant's turn is unknown.*no eos_token"):
        end_of_turn(endless)


def test_an_engine_stops_at_the_end_of_turn_token(tmp_path):
    """The model's own generation configuration has only the end-of-text token, like that of a base model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tir.rollout.engines.transformers import TransformersEngine

    tokenizer = llama3_like()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine(tmp_path, max_batch=1, device="cpu", dtype="float32")
    assert engine.end_ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    asyncio.run(engine.close())


# --- ChatML ----------------------------------------------------------------------------------------------------------


def chatml(system: str, user: str) -> str:
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tiny():
    """The tiny model's tokenizer, trained on a small world, and the world's SFT rows with generated results."""
    world = build_world(WorldSettings(sft_clusters=20, benchmark_rows=2, rl_train_rows=2, rl_validation_rows=2))
    rows = [
        {
            "instruction": "Use tools.",
            "input": draft.question,
            "output": "".join(turn + render_result(f"{turn[::-1]} <|im_end|>") for turn in draft.turns[:-1])
            + draft.turns[-1],
        }
        for draft in drafts(world, TrajectorySettings(rows=120))
    ]
    text = [*(passage["contents"] for passage in passages(world)), *(row["output"] for row in rows)]
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
    backend = train_tokenizer(text, 700)
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE, **special), rows


@pytest.mark.parametrize("layout", ["upstream_user", "system_role"])
@pytest.mark.parametrize("mask_results", [False, True])
def test_chatml_rows_equal_the_template_filled_by_hand(tiny, layout, mask_results):
    tokenizer, rows = tiny
    rows = [*rows, ROW, ROW | {"input": ""}, ROW | {"output": "<result>\nonly\n</result>"}]
    for row, found in zip(
        rows, render_rows(tokenizer, rows, sft_run(layout=layout, mask_results=mask_results)), strict=True
    ):
        system, user = row["instruction"], row["input"]
        if layout == "upstream_user":
            system, user = "You are a helpful assistant.", f"{system}\n{user}" if user else system
        segments = split_output(row["output"]) if mask_results else [SimpleNamespace(by="model", text=row["output"])]
        end = "<|im_end|>" if mask_results else "<|im_end|>\n"
        if segments[-1].by == "tool":
            segments.append(SimpleNamespace(by="model", text=""))
        ids = tokenizer(chatml(system, user), add_special_tokens=False)["input_ids"]
        labels = [IGNORE] * len(ids)
        for segment in segments:
            if segment.by == "tool":
                piece = encode_tool_text(tokenizer, segment.text)
            else:
                text = segment.text + (end if segment is segments[-1] else "")
                piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = [*ids, *piece]
            labels += [IGNORE] * len(piece) if segment.by == "tool" else piece
        assert (found["input_ids"], found["labels"]) == (ids[:4096], labels[:4096])


def test_chatml_prompts_equal_the_template_filled_by_hand(tiny):
    tokenizer, rows = tiny
    for text, system in itertools.product(
        [*(row["input"] for row in rows), QUESTION], ["Use tools.", "\nUse tools.\n", SYSTEM]
    ):
        expected = tokenizer(chatml(system, text), add_special_tokens=False)["input_ids"]
        assert render_prompt(tokenizer, system, text) == expected
    assert (
        render_prompt(qwen_like_tokenizer(), SYSTEM, QUESTION)
        == (qwen_like_tokenizer()(chatml(SYSTEM, QUESTION), add_special_tokens=False)["input_ids"])
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizers_keep_spaces_and_line_breaks(family):
    check_keeps_text(FAMILIES[family]())


def test_a_tokenizer_that_loses_them_is_refused():
    """As transformers 5.6 reads a byte-level tokenizer that declares Llama's class."""
    words = WordLevel({"<think>": 0, "so": 1, "[UNK]": 2}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = Whitespace()
    with pytest.raises(DataError, match="loses spaces or line breaks.*becomes.*\n.*PreTrainedTokenizerFast"):
        check_keeps_text(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
