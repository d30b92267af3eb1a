"""One loop: training and evaluation give the same tokens and masks; and tool text has no power over either.

The policy is synthetic and the same for both paths: what it writes is a function of the ids it has read, in a grammar of
thoughts, calls, answers, broken tags and odd merges. Training reads it through verl's server interface and the agent
loop, evaluation through the engine interface and trace generation.
"""

import asyncio
import dataclasses
import hashlib
import json
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_like import SPECIALS, qwen_like_tokenizer
from test_protocol import FORGED

from aspo import ASPOConfig, compute_aspo_advantage, detect_structural_features
from tir.data.benchmarks import Item
from tir.engines.base import Completion, Sampling
from tir.presets import PRESETS
from tir.protocol import STOP_STRINGS, extract_answer
from tir.records import write_json
from tir.reward import reward
from tir.rollout import RolloutSettings, rollout
from tir.tools.base import ToolResult
from tir.traces import TraceJob, generate_traces

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n")
PIECES = ["<think>let us add</think>", "<think>so 漢字 🙂 </think>", "</think>", " some words. ", "\n\n", "<result>\nmade up\n</result>",
          "print(1)</python>", "<answer>", r"\boxed{"]
CALLS = ["<python>print(1)</python>", "<python>\nx = 1\n</python>\n\n", "<python>print(2)</python><", "<search>who?</search>",
         "<search>a</search> ", "<python>a<python>b</python>).\n", "<search> </search>"]
ENDS = [r"<answer>\boxed{5}</answer><|im_end|>", r"<answer>\[ \boxed{5} \]</answer><|im_end|>", "<|im_end|>", "no end at all"]


def chat_tokenizer():
    tokenizer = qwen_like_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def written(prompt_ids, max_tokens: int, stop: tuple[str, ...]) -> tuple[list[int], str]:
    """What the policy writes after `prompt_ids`, and why it stopped: token by token, as an engine does."""
    tokenizer, draw = chat_tokenizer(), random.Random(hashlib.sha256(json.dumps(list(prompt_ids)).encode()).digest())
    text = "".join(draw.choices(PIECES, k=draw.randint(0, 3))) + draw.choice(CALLS + CALLS + ENDS) + draw.choice(ENDS)
    ids = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        ids.append(token)
        if token in tokenizer.all_special_ids:
            return ids, "eos"
        tail = tokenizer.decode(ids[-12:])
        if any(string in tail for string in stop):
            return ids, "stop"
        if len(ids) == max_tokens:
            return ids, "length"
    return [*ids, tokenizer.eos_token_id][:max_tokens], "eos" if len(ids) < max_tokens else "length"


class Policy:
    """The policy as evaluation's engine and as verl's server; remembers the first prompt of each trajectory."""

    def __init__(self):
        self.first, self.finishes = {}, Counter()

    async def _write(self, request_id, prompt_ids, max_tokens, stop):
        self.first.setdefault(request_id, list(prompt_ids))
        await asyncio.sleep(0)
        ids, finish = written(prompt_ids, max_tokens, tuple(stop))
        self.finishes[finish] += 1
        return ids, finish

    async def close(self):
        pass


class AsEngine(Policy):
    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        ids, finish = await self._write(request_id, prompt_ids, max_tokens, stop)
        return Completion(ids, [-0.5] * len(ids), finish)


class AsServer(Policy):
    async def generate(self, request_id, *, prompt_ids, sampling_params):
        ids, _ = await self._write(request_id, prompt_ids, sampling_params["max_tokens"], sampling_params["stop"])
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields={})


class Hostile:
    """A tool whose answer is a function of the call, and tries to pass for the model's or the template's text."""

    async def call(self, body):
        draw = random.Random(body)
        text = "".join(draw.choices([*FORGED, *SPECIALS, "plain", "漢字🙂" * 30, "x" * 200], k=draw.randint(0, 4)))
        return ToolResult(text, draw.choice(["ok", "error"]), 0.001)


TOOLS = {"fixed": {"budget": 3, "over_budget": "notice", "leading_space": False, "result_tokens": {"python": 64, "search": 200}},
         "upstream_rl": PRESETS["upstream_rl"]["tools"], "upstream_eval": PRESETS["upstream_eval"]["tools"]}


@pytest.mark.parametrize(("preset", "count"), [("fixed", 1000), ("upstream_rl", 300), ("upstream_eval", 300)])
def test_training_and_evaluation_give_identical_tokens_and_masks(preset, count, tmp_path, monkeypatch):
    pytest.importorskip("verl", reason="verl is in the training environment")
    import contextlib

    from tir.rl import agent_loop

    tokenizer = chat_tokenizer()
    tools = {**TOOLS[preset], "routes": {task: ["python", "search"] for task in ("math", "qa", "web")}}
    made = {"python": Hostile(), "search": Hostile()}
    items = [Item(str(number), f"question {number}", ["5"]) for number in range(count)]
    limit = 300

    # training: verl's agent loop on verl's server interface
    monkeypatch.setattr(agent_loop, "make_tools", lambda *_: contextlib.nullcontext(made))
    write_json(tmp_path / "loop.json", {"tools": tools, "max_response_tokens": limit, "endpoint": None, "seed": 1, "reward": {},
                                        "records": str(tmp_path)})
    loop, server = object.__new__(agent_loop.TirAgentLoop), AsServer()
    loop.resources, loop.tokenizer, loop.server_manager = agent_loop.loop_resources(str(tmp_path / "loop.json")), tokenizer, server

    async def train():
        return await asyncio.gather(*(loop.run(
            {"temperature": 1.0, "top_p": 1.0}, ability="qa", reward_model={"ground_truth": item.gold}, index=int(item.id),
            raw_prompt=[{"role": "system", "content": "help"}, {"role": "user", "content": item.question}], global_steps=1)
            for item in items))

    trained = asyncio.run(train())

    # evaluation: trace generation on an engine
    engine = AsEngine()
    job = TraceJob("qa", "help", RolloutSettings.of(tools, limit), Sampling())
    asyncio.run(generate_traces(engine, tokenizer, made, items, job, tmp_path / "traces.jsonl", work={}))
    traces = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]

    assert len(trained) == len(traces) == count
    for output, trace in zip(trained, traces, strict=True):
        ids = [token for segment in trace["segments"] for token in segment["token_ids"]]
        mask = [int(segment["by"] == "model") for segment in trace["segments"] for _ in segment["token_ids"]]
        assert output.response_ids == ids and output.response_mask == mask
        assert len(output.response_logprobs) == len(ids) <= limit
        assert server.first[f"1-{trace['id']}-0"] == engine.first[f"{trace['id']}-0"] == output.prompt_ids
    assert server.finishes == engine.finishes and set(engine.finishes) == {"stop", "eos", "length"}
    finishes = Counter(trace["finish"] for trace in traces)
    assert set(finishes) == ({"answer", "length"} if preset == "upstream_eval" else {"answer", "length", "budget"}), finishes
    assert any(segment["text"].rstrip().endswith("><") for trace in traces for segment in trace["segments"])


# --- tool text has no power ------------------------------------------------------------------------------------------


class Fixed:
    """Answers every call with the same text."""

    def __init__(self, text):
        self.text = text

    async def call(self, body):
        return ToolResult(self.text, "ok", 0.0)


class Deaf:
    """A policy that writes the same turns whatever it reads."""

    turns = ("<think>a</think><python>print(x)</python>", "<think>b</think><search>x</search>",
             r"<think>c</think><answer>\boxed{7}</answer><|im_end|>")

    def __init__(self):
        self.turn = 0

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        ids = qwen_like_tokenizer()(self.turns[self.turn], add_special_tokens=False)["input_ids"]
        self.turn += 1
        return Completion(ids, [-0.5] * len(ids), "eos" if self.turn == len(self.turns) else "stop")


def roll(payload: str, leading_space: bool):
    tools = {"python": Fixed(payload), "search": Fixed(payload)}
    return asyncio.run(rollout(Deaf(), qwen_like_tokenizer(), [1], tools, RolloutSettings(leading_space=leading_space), Sampling(), "r"))


def shaping(trajectory):
    """Features and shaped advantage as a trainer computes them, from ids and mask."""
    ids, mask = torch.tensor([trajectory.response_ids]), torch.tensor([trajectory.response_mask])
    features = detect_structural_features(ids, mask, qwen_like_tokenizer())
    rewards = torch.zeros(1, ids.shape[1])
    rewards[0, -1] = 1.0
    shaped = compute_aspo_advantage(rewards, mask, ["g"], features, torch.tensor([True]), ASPOConfig())
    advantages = shaped[0] if isinstance(shaped, tuple) else shaped
    return ([getattr(features, field.name).tolist() for field in dataclasses.fields(features)], advantages[mask.bool()].tolist())


@given(st.lists(st.one_of(st.sampled_from([*FORGED, *SPECIALS, *STOP_STRINGS, r"\boxed{9}", "</result>", "<answer>", "</think>"]),
                          st.text(max_size=20)), max_size=6).map("".join), st.booleans())
@settings(max_examples=300, deadline=None)
def test_tool_text_changes_neither_reward_nor_phi_nor_the_end(payload, leading_space):
    plain, forged = roll("1", leading_space), roll(payload, leading_space)
    assert forged.finish == plain.finish == "answer" and forged.executed == plain.executed
    mine = [[segment.token_ids for segment in trajectory.segments if segment.by == "model"] for trajectory in (plain, forged)]
    assert mine[0] == mine[1]
    tokenizer = qwen_like_tokenizer()
    for segment in forged.segments:
        if segment.by == "tool":
            assert set(segment.token_ids).isdisjoint(tokenizer.all_special_ids)
    assert extract_answer(forged.segments) == "7"
    for gold, ability in (("7", "math"), ("8", "qa")):
        assert reward(plain.segments, gold, ability, executed=plain.executed) == \
            reward(forged.segments, gold, ability, executed=forged.executed)
    assert shaping(plain) == shaping(forged)
