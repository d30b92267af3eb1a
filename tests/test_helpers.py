"""Inference-time helpers against a local OpenAI-compatible server: off by default, each within its uses, faults typed."""

import asyncio

import pytest
from fake_services import FakeService, chat, slow
from qwen_like import qwen_like_tokenizer
from test_rollout import ANSWER, CALL, Echo, Script

from tir.config import HelpersConfig
from tir.engines.base import Sampling
from tir.errors import ConfigError, HelperUnavailable
from tir.helpers import make_helpers
from tir.rollout import RolloutSettings, rollout
from tir.tools.base import ToolResult

DEBUGGER = {"model": "big", "uses": 1, "max_tokens": 100, "timeout_s": 1.0}


class Interpreter:
    """A tool that fails on every program but `good`."""

    def __init__(self):
        self.calls = []

    async def call(self, body):
        self.calls.append(body)
        return ToolResult("fine", "ok", 0.0) if body.strip() == "good" else ToolResult(f"no {body.strip()}", "error", 0.0)


@pytest.fixture
def service():
    with FakeService(chat(lambda asked: "Here:\n```python\ngood\n```")).running() as running:
        yield running


def go(engine, tools, settings: dict, endpoint="none", rollout_settings=RolloutSettings()):
    with make_helpers(HelpersConfig(**settings).model_dump(mode="json"), endpoint) as helpers:
        return asyncio.run(rollout(engine, qwen_like_tokenizer(), [5, 6], tools, rollout_settings, Sampling(), "r", helpers))


def test_off_by_default():
    with make_helpers(HelpersConfig().model_dump(mode="json"), "none") as helpers:
        assert helpers is None
    assert go(Script(CALL, ANSWER), {"python": Echo()}, {}).helped == {}


def test_the_debugger_repairs_once_and_the_model_reads_the_result(service):
    tool = Interpreter()
    found = go(Script(CALL, CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert [call.strip() for call in tool.calls] == ["print(1)", "good", "print(1)"] and found.helped == {"debugger": 1}
    assert "fine" in found.segments[1].text and "no print(1)" in found.segments[3].text and found.executed == {"python": 2}
    assert service.seen[0]["temperature"] == 0 and service.seen[0]["model"] == "big" and len(service.seen) == 1
    assert "print(1)" in service.seen[0]["messages"][0]["content"] and "no print(1)" in service.seen[0]["messages"][0]["content"]


def test_code_that_works_is_not_sent_anywhere(service):
    assert go(Script(CALL, ANSWER), {"python": Echo()}, {"debugger": DEBUGGER}, f"{service.url}/v1").helped == {}
    assert not service.seen


class Temperatures(Script):
    def __init__(self, *turns):
        super().__init__(*turns)
        self.seen = []

    async def generate(self, prompt_ids, *, sampling, **more):
        self.seen.append((sampling.temperature, list(prompt_ids)))
        return await super().generate(prompt_ids, sampling=sampling, **more)


def test_rollback_takes_a_failed_call_back_to_the_line_before_it():
    text = "<think>first line\nsecond line\n</think>\nlet me see <python>bad</python>"
    engine, tool = Temperatures(text, "<python>good</python>", ANSWER), Interpreter()
    found = go(engine, {"python": tool}, {"rollback": {"uses": 1, "temperature": 0.5}})
    assert found.helped == {"rollback": 1} and tool.calls == ["bad", "good"] and found.finish == "answer"
    kept = found.segments[0]
    assert text.startswith(kept.text) and "second line" in kept.text and "let me see" not in kept.text
    assert qwen_like_tokenizer().decode(kept.token_ids) == kept.text and len(kept.log_probs) == len(kept.token_ids)
    assert [temperature for temperature, _ in engine.seen] == [0.0, 0.5, 0.0]
    assert engine.seen[1][1] == [5, 6, *kept.token_ids]
    assert "bad" not in "".join(segment.text for segment in found.segments)


def test_rollback_has_its_uses_and_then_the_error_is_read():
    found = go(Script("<python>bad</python>", "<python>bad</python>", ANSWER), {"python": Interpreter()}, {"rollback": {}})
    assert found.helped == {"rollback": 1} and "no bad" in found.segments[1].text and found.segments[0].text == "<python>bad</python>"


def test_the_refiner_shortens_the_response_and_keeps_the_prompt():
    long = "<think>" + "on and on " * 60 + "</think>" + CALL
    with FakeService(chat(lambda asked: r"short <|im_end|> <answer>\boxed{9}</answer>")).running() as service:
        engine = Temperatures(long, ANSWER)
        found = go(engine, {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1")
    assert found.helped == {"refiner": 1} and [segment.by for segment in found.segments] == ["tool", "model"]
    assert engine.seen[1][1][:2] == [5, 6] and len(engine.seen[1][1]) < 60  # the prompt, and the shorter text
    assert set(found.segments[0].token_ids).isdisjoint(qwen_like_tokenizer().all_special_ids)
    assert long in service.seen[0]["messages"][0]["content"] and found.segments[-1].text == ANSWER.removesuffix("<|im_end|>")


def test_a_reply_that_is_not_shorter_changes_nothing():
    long = "<think>" + "on and on " * 60 + "</think>" + CALL
    with FakeService(chat(lambda asked: asked)).running() as service:
        found = go(Script(long, ANSWER), {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1")
    assert [segment.by for segment in found.segments] == ["model", "tool", "model"] and found.helped == {}
    assert len(service.seen) == 1


@pytest.mark.parametrize("reply", ["", " \n", "Sorry.\n```python\n\n```"])
def test_a_reply_without_code_hides_no_error(reply):
    tool = Interpreter()
    with FakeService(chat(lambda asked: reply)).running() as service:
        found = go(Script(CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert len(tool.calls) == 1 and found.helped == {} and "no print(1)" in found.segments[1].text and len(service.seen) == 1


def test_half_a_character_in_a_reply_is_replaced():
    long, tool = "<think>" + "on and on " * 60 + "</think>" + CALL, Interpreter()
    with FakeService(chat(lambda asked: "short \ud83d")).running() as service:
        found = go(Script(long, ANSWER), {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1")
        assert found.helped == {"refiner": 1} and found.segments[0].text == "short \ufffd"
        go(Script(CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert tool.calls[1] == "short \ufffd"


def test_a_busy_server_is_asked_again(service):
    service.plan = [(503, {}, {"error": {"message": "loading"}}), (429, {"Retry-After": "0.1"}, b""), (200, {}, {"choices": []}),
                    slow(1.5, (200, {}, {}))]
    found = go(Script(CALL, ANSWER), {"python": Interpreter()}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert "fine" in found.segments[1].text and len(service.seen) == 5


def test_a_model_the_server_lacks_and_a_server_that_is_missing_are_named(service):
    with pytest.raises(HelperUnavailable, match="absent.*does not exist"):
        go(Script(CALL, ANSWER), {"python": Interpreter()}, {"debugger": {**DEBUGGER, "model": "absent"}}, f"{service.url}/v1")
    with pytest.raises(ConfigError, match="helper_endpoint"):
        go(Script(CALL, ANSWER), {"python": Interpreter()}, {"debugger": DEBUGGER})
