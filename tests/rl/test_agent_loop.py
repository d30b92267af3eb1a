"""The trajectory loop within verl: its engine adapter, its seeds, and a tool that does not start."""

import asyncio
from types import SimpleNamespace

import pytest
from support.qwen_like import qwen_like_tokenizer

from tir.common.errors import EngineFault, ToolUnavailable
from tir.common.records import read_json
from tir.rl.server_engine import ServerEngine
from tir.rollout.engines.base import Sampling, request_seed
from tir.rollout.protocol import STOP_STRINGS


class Server:
    """A fake of verl's client: each call returns the next text, generated with weights of the next version."""

    def __init__(self, *texts: str, stop_reason: str = "completed"):
        self.texts, self.stop_reason, self.seen = texts, stop_reason, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        ids = qwen_like_tokenizer()(self.texts[len(self.seen)], add_special_tokens=False)["input_ids"][
            : sampling_params["max_tokens"]
        ]
        self.seen.append(sampling_params)
        version = {
            "global_steps": len(self.seen),
            "min_global_steps": len(self.seen),
            "max_global_steps": len(self.seen),
        }
        return SimpleNamespace(
            token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason=self.stop_reason, extra_fields=version
        )


def test_the_adapter_derives_the_finish_reason_and_keeps_weight_versions():
    tokenizer = qwen_like_tokenizer()
    server = Server("<think>t</think><python>print(1)</python>", "so <answer>5</answer><|im_end|>", "a long text")
    engine = ServerEngine(server, tokenizer)

    async def turns():
        return [
            await engine.generate(
                [1], max_tokens=limit, sampling=Sampling(1.0, seed=5), stop=STOP_STRINGS, request_id="r"
            )
            for limit in (100, 100, 2)
        ]

    assert [completion.finish for completion in asyncio.run(turns())] == ["stop", "eos", "length"]
    assert [parameters["seed"] for parameters in server.seen] == 3 * [5]  # the adapter passes the seed unchanged
    assert engine.extra_fields["min_global_steps"] == 1 and engine.extra_fields["max_global_steps"] == 3


def test_an_aborted_request_is_an_engine_fault():
    engine = ServerEngine(Server("x", stop_reason="aborted"), qwen_like_tokenizer())
    with pytest.raises(EngineFault):
        asyncio.run(engine.generate([1], max_tokens=9, sampling=Sampling(), stop=(), request_id="r"))


def test_request_seeds_are_stable_and_distinct():
    seeds = {
        request_seed(run, step, row, member)
        for run in (1, 2)
        for step in range(5)
        for row in range(20)
        for member in range(4)
    }
    assert len(seeds) == 800 and request_seed(1, 1, 0, 0) == request_seed(1, 1, 0, 0)


def test_a_tool_that_does_not_start_is_the_cause_that_the_run_ends_with(tmp_path, monkeypatch):
    """verl makes a loop per trajectory, and the first of a process starts the tools."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase

    from tir.rl import agent_loop, sampler

    def fails(path: str):
        raise ToolUnavailable("the Python worker died", where="tools.python", why="no answer within 120 s")

    monkeypatch.setenv("TIR_RUN_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(AgentLoopBase, "__init__", lambda self: None)
    monkeypatch.setattr(agent_loop, "loop_resources", fails)
    with pytest.raises(ToolUnavailable):
        agent_loop.TirAgentLoop(settings="loop.json")
    assert read_json(tmp_path / "fault.json")["infrastructure"]
    assert "ToolUnavailable: tools.python: the Python worker died: no answer within 120 s" in str(sampler.run_fault())
