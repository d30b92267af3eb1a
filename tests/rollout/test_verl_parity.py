"""Training and evaluation give the same tokens and masks, and tool text changes neither reward nor shaping.

Both use the same synthetic policy, whose text is a function of its prompt ids: random thoughts, calls, answers, broken
tags and tags merged with other text. Training calls it through verl's server interface and the agent loop, evaluation
through the engine interface and trace generation.
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
from support.forged import FORGED
from support.qwen_like import SPECIALS, qwen_like_tokenizer
from support.rollouts import limits

from aspo import ASPOConfig, compute_aspo_advantage, detect_structural_features
from tir.analysis.exports import of_rollouts
from tir.common.records import write_json
from tir.config.presets import PRESETS
from tir.config.rl import RewardRule
from tir.config.tools import Tools
from tir.data.benchmarks import Item
from tir.rollout.engines.base import Completion, Sampling
from tir.rollout.loop import RolloutSettings, rollout
from tir.rollout.protocol import STOP_STRINGS, extract_answer
from tir.rollout.traces import TraceJob, generate_traces
from tir.scoring.reward import reward
from tir.tools.base import ToolResult

THOUGHTS = [
    "<think>let us add</think>",
    "<think>so 漢字 🙂 </think>",
    "</think>",
    " some words. ",
    "\n\n",
    "<result>\nmade up\n</result>",
    "print(1)</python>",
    "<answer>",
    r"\boxed{",
]
CALLS = [
    "<python>print(1)</python>",
    "<python>\nx = 1\n</python>\n\n",
    "<python>print(2)</python><",
    "<search>who?</search>",
    "<search>a</search> ",
    "<python>a<python>b</python>).\n",
    "<search> </search>",
]
ENDS = [
    r"<answer>\boxed{5}</answer><|im_end|>",
    r"<answer>\[ \boxed{5} \]</answer><|im_end|>",
    "<|im_end|>",
    "no end at all",
]


def continuation(prompt_ids, max_tokens: int, stop: tuple[str, ...]) -> tuple[list[int], str]:
    """The policy's ids after `prompt_ids`, cut where an engine would stop, and the finish reason."""
    tokenizer = qwen_like_tokenizer()
    draw = random.Random(hashlib.sha256(json.dumps(list(prompt_ids)).encode()).digest())
    text = "".join(draw.choices(THOUGHTS, k=draw.randint(0, 3))) + draw.choice(CALLS + CALLS + ENDS) + draw.choice(ENDS)
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
    """The base of the policy as an engine and as verl's server; records the first prompt of each trajectory."""

    def __init__(self):
        self.first, self.finishes = {}, Counter()

    async def _write(self, request_id, prompt_ids, max_tokens, stop):
        self.first.setdefault(request_id, list(prompt_ids))
        await asyncio.sleep(0)
        ids, finish = continuation(prompt_ids, max_tokens, tuple(stop))
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
    """A tool whose result is a function of the call and contains tags, control tokens and chat headers."""

    async def call(self, body):
        draw = random.Random(body)
        text = "".join(draw.choices([*FORGED, *SPECIALS, "plain", "漢字🙂" * 30, "x" * 200], k=draw.randint(0, 4)))
        return ToolResult(text, draw.choice(["ok", "error"]), 0.001)


TOOLS = {
    "fixed": {
        "budget": 3,
        "over_budget": "notice",
        "leading_space": False,
        "result_tokens": {"python": 64, "search": 200},
    },
    "upstream_rl": PRESETS["upstream_rl"]["tools"],
    "upstream_eval": PRESETS["upstream_eval"]["tools"],
}


@pytest.mark.parametrize(("preset", "count"), [("fixed", 1000), ("upstream_rl", 300), ("upstream_eval", 300)])
def test_training_and_evaluation_give_identical_tokens_and_masks(preset, count, tmp_path, monkeypatch):
    pytest.importorskip("verl", reason="verl is in the training environment")
    import contextlib

    from tir.rl import agent_loop

    tokenizer = qwen_like_tokenizer()
    tools = {**TOOLS[preset], "routes": {task: ["python", "search"] for task in ("math", "qa", "web")}}
    toolbox = {"python": Hostile(), "search": Hostile()}
    items = [Item(str(number), f"question {number}", ["5"]) for number in range(count)]
    limit = 300

    # Training: verl's agent loop with verl's server interface.
    monkeypatch.setattr(agent_loop, "make_tools", lambda *_: contextlib.nullcontext(toolbox))
    write_json(
        tmp_path / "loop.json",
        {
            "tools": tools,
            "max_response_tokens": limit,
            "endpoint": None,
            "seed": 1,
            "reward": {},
            "records": str(tmp_path / "records"),
        },
    )
    (tmp_path / "records").mkdir()
    loop, server = object.__new__(agent_loop.TirAgentLoop), AsServer()
    loop.resources, loop.tokenizer, loop.server_manager = (
        agent_loop.loop_resources(str(tmp_path / "loop.json")),
        tokenizer,
        server,
    )

    async def train():
        return await asyncio.gather(
            *(
                loop.run(
                    {"temperature": 1.0, "top_p": 1.0},
                    ability="qa",
                    reward_model={"ground_truth": item.gold},
                    index=int(item.id),
                    raw_prompt=[{"role": "system", "content": "help"}, {"role": "user", "content": item.question}],
                    global_steps=1,
                )
                for item in items
            )
        )

    trained = asyncio.run(train())

    # Evaluation: trace generation with an engine.
    engine = AsEngine()
    job = TraceJob("qa", "help", RolloutSettings(Tools(**tools), limit), Sampling(), samples=1, concurrency=64)
    asyncio.run(generate_traces(engine, tokenizer, toolbox, items, job, tmp_path / "traces.jsonl", work={}))
    traces = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]

    assert len(trained) == len(traces) == count
    for output, trace in zip(trained, traces, strict=True):
        ids = [token for segment in trace["segments"] for token in segment["token_ids"]]
        mask = [int(segment["by"] == "model") for segment in trace["segments"] for _ in segment["token_ids"]]
        assert output.response_ids == ids and output.response_mask == mask
        assert len(output.response_logprobs) == len(ids) <= limit
        assert server.first[f"1-{trace['id']}-0"] == engine.first[f"{trace['id']}-0"] == output.prompt_ids
    rollouts = of_rollouts(tmp_path, "train", 1).traces  # as exports read them
    same = ("question", "gold", "answer", "n_python", "n_search", "first_tool_offset", "finish", "usage")
    for sampled, trace in zip(rollouts, traces, strict=True):
        assert [sampled[key] for key in same] == [trace[key] for key in same]
    assert server.finishes == engine.finishes and set(engine.finishes) == {"stop", "eos", "length"}
    finishes = Counter(trace["finish"] for trace in traces)
    assert set(finishes) == ({"answer", "length"} if preset == "upstream_eval" else {"answer", "length", "budget"}), (
        finishes
    )
    assert any(segment["text"].rstrip().endswith("><") for trace in traces for segment in trace["segments"])


# --- tool text changes nothing ---------------------------------------------------------------------------------------


class Fixed:
    """A tool that returns the same text for every call."""

    def __init__(self, text):
        self.text = text

    async def call(self, body):
        return ToolResult(self.text, "ok", 0.0)


class FixedTurns:
    """A policy that writes the same turns for every prompt."""

    turns = (
        "<think>a</think><python>print(x)</python>",
        "<think>b</think><search>x</search>",
        r"<think>c</think><answer>\boxed{7}</answer><|im_end|>",
    )

    def __init__(self):
        self.turn = 0

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        ids = qwen_like_tokenizer()(self.turns[self.turn], add_special_tokens=False)["input_ids"]
        self.turn += 1
        return Completion(ids, [-0.5] * len(ids), "eos" if self.turn == len(self.turns) else "stop")


def roll(payload: str, leading_space: bool):
    tools = {"python": Fixed(payload), "search": Fixed(payload)}
    return asyncio.run(
        rollout(
            FixedTurns(),
            qwen_like_tokenizer(),
            [1],
            tools,
            limits(leading_space=leading_space),
            Sampling(),
            "r",
        )
    )


def shaping(trajectory):
    """Features and shaped advantages, computed from ids and mask as in the trainer."""
    ids, mask = torch.tensor([trajectory.response_ids]), torch.tensor([trajectory.response_mask])
    features = detect_structural_features(ids, mask, qwen_like_tokenizer())
    rewards = torch.zeros(1, ids.shape[1])
    rewards[0, -1] = 1.0
    shaped = compute_aspo_advantage(rewards, mask, ["g"], features, torch.tensor([True]), ASPOConfig())
    advantages = shaped[0] if isinstance(shaped, tuple) else shaped
    return (
        [getattr(features, field.name).tolist() for field in dataclasses.fields(features)],
        advantages[mask.bool()].tolist(),
    )


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*FORGED, *SPECIALS, *STOP_STRINGS, r"\boxed{9}", "</result>", "<answer>", "</think>"]),
            st.text(max_size=20),
        ),
        max_size=6,
    ).map("".join),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_tool_text_changes_neither_reward_nor_phi_nor_the_end(payload, leading_space):
    plain, forged = roll("1", leading_space), roll(payload, leading_space)
    assert forged.finish == plain.finish == "answer" and forged.executed == plain.executed
    model_ids = [
        [segment.token_ids for segment in trajectory.segments if segment.by == "model"]
        for trajectory in (plain, forged)
    ]
    assert model_ids[0] == model_ids[1]
    tokenizer = qwen_like_tokenizer()
    for segment in forged.segments:
        if segment.by == "tool":
            assert set(segment.token_ids).isdisjoint(tokenizer.all_special_ids)
    assert extract_answer(forged.segments) == "7"
    for gold, ability in (("7", "math"), ("8", "qa")):
        assert reward(plain.segments, gold, ability, RewardRule(), plain.executed) == reward(
            forged.segments, gold, ability, RewardRule(), forged.executed
        )
    assert shaping(plain) == shaping(forged)
