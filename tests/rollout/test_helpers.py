"""Inference-time helpers with a local OpenAI-compatible server: defaults, limits of use, typed faults."""

import asyncio
import sys

import pytest
from support.fake_services import FakeService, chat, slow
from support.qwen_like import qwen_like_tokenizer
from support.rollouts import ANSWER, CALL, Echo, Script, limits

from tir.common.errors import ConfigError, HelperUnavailable
from tir.config.evaluation import HelpersConfig
from tir.rollout.engines.base import Sampling
from tir.rollout.helpers import make_helpers, server
from tir.rollout.loop import rollout
from tir.tools.base import ToolResult

DEBUGGER = {"model": "big", "uses": 1, "max_tokens": 100, "timeout_s": 1.0}


class Interpreter:
    """A tool that succeeds only on the program `good`."""

    def __init__(self):
        self.calls = []

    async def call(self, body):
        self.calls.append(body)
        return (
            ToolResult("fine", "ok", 0.0) if body.strip() == "good" else ToolResult(f"no {body.strip()}", "error", 0.0)
        )


@pytest.fixture
def service():
    with FakeService(chat(lambda asked: "Here:\n```python\ngood\n```")).running() as running:
        yield running


def roll_out(engine, tools, settings: dict, endpoint="none", rollout_settings=limits()):
    with make_helpers(HelpersConfig(**settings), endpoint) as helpers:
        return asyncio.run(
            rollout(engine, qwen_like_tokenizer(), [5, 6], tools, rollout_settings, Sampling(), "r", helpers)
        )


def test_helpers_are_off_by_default():
    with make_helpers(HelpersConfig(), "none") as helpers:
        assert helpers is None
    assert roll_out(Script(CALL, ANSWER), {"python": Echo()}, {}).helped == {}


def test_the_model_gets_the_result_of_the_debuggers_program_as_often_as_uses_allow(service):
    tool = Interpreter()
    trajectory = roll_out(Script(CALL, CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert [call.strip() for call in tool.calls] == ["print(1)", "good", "print(1)"] and trajectory.helped == {
        "debugger": 1
    }
    assert (
        "fine" in trajectory.segments[1].text
        and "no print(1)" in trajectory.segments[3].text
        and trajectory.executed == {"python": 2}
    )
    assert service.seen[0]["temperature"] == 0 and service.seen[0]["model"] == "big" and len(service.seen) == 1
    assert (
        "print(1)" in service.seen[0]["messages"][0]["content"]
        and "no print(1)" in service.seen[0]["messages"][0]["content"]
    )


def test_the_debugger_does_not_get_code_that_ran(service):
    assert roll_out(Script(CALL, ANSWER), {"python": Echo()}, {"debugger": DEBUGGER}, f"{service.url}/v1").helped == {}
    assert not service.seen


class RecordingScript(Script):
    """The scripted engine; records the temperature and the prompt of each request."""

    def __init__(self, *turns):
        super().__init__(*turns)
        self.seen = []

    async def generate(self, prompt_ids, *, sampling, **more):
        self.seen.append((sampling.temperature, list(prompt_ids)))
        return await super().generate(prompt_ids, sampling=sampling, **more)


def test_rollback_removes_the_line_of_a_failed_call():
    text = "<think>first line\nsecond line\n</think>\nlet me see <python>bad</python>"
    engine, tool = RecordingScript(text, "<python>good</python>", ANSWER), Interpreter()
    trajectory = roll_out(engine, {"python": tool}, {"rollback": {"uses": 1, "temperature": 0.5}})
    assert trajectory.helped == {"rollback": 1} and tool.calls == ["bad", "good"] and trajectory.finish == "answer"
    kept = trajectory.segments[0]
    assert text.startswith(kept.text) and "second line" in kept.text and "let me see" not in kept.text
    assert qwen_like_tokenizer().decode(kept.token_ids) == kept.text and len(kept.log_probs) == len(kept.token_ids)
    assert [temperature for temperature, _ in engine.seen] == [0.0, 0.5, 0.0]
    assert engine.seen[1][1] == [5, 6, *kept.token_ids]
    assert "bad" not in "".join(segment.text for segment in trajectory.segments)


def test_the_model_gets_the_error_after_the_last_rollback():
    trajectory = roll_out(
        Script("<python>bad</python>", "<python>bad</python>", ANSWER), {"python": Interpreter()}, {"rollback": {}}
    )
    assert (
        trajectory.helped == {"rollback": 1}
        and "no bad" in trajectory.segments[1].text
        and trajectory.segments[0].text == "<python>bad</python>"
    )


def test_the_refiner_shortens_the_response_and_keeps_the_prompt():
    long = "<think>" + "on and on " * 60 + "</think>" + CALL
    with FakeService(chat(lambda asked: r"short <|im_end|> <answer>\boxed{9}</answer>")).running() as service:
        engine = RecordingScript(long, ANSWER)
        trajectory = roll_out(
            engine, {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1"
        )
    assert trajectory.helped == {"refiner": 1} and [segment.by for segment in trajectory.segments] == ["tool", "model"]
    assert engine.seen[1][1][:2] == [5, 6] and len(engine.seen[1][1]) < 60  # the prompt and the shorter text
    assert set(trajectory.segments[0].token_ids).isdisjoint(qwen_like_tokenizer().all_special_ids)
    assert long in service.seen[0]["messages"][0]["content"] and trajectory.segments[-1].text == ANSWER.removesuffix(
        "<|im_end|>"
    )


def test_a_refined_response_that_is_not_shorter_is_ignored():
    long = "<think>" + "on and on " * 60 + "</think>" + CALL
    with FakeService(chat(lambda asked: asked)).running() as service:
        trajectory = roll_out(
            Script(long, ANSWER), {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1"
        )
    assert [segment.by for segment in trajectory.segments] == ["model", "tool", "model"] and trajectory.helped == {}
    assert len(service.seen) == 1


@pytest.mark.parametrize("reply", ["", " \n", "Sorry.\n```python\n\n```"])
def test_the_model_gets_its_own_error_if_the_debuggers_reply_has_no_code(reply):
    tool = Interpreter()
    with FakeService(chat(lambda asked: reply)).running() as service:
        trajectory = roll_out(Script(CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert (
        len(tool.calls) == 1
        and trajectory.helped == {}
        and "no print(1)" in trajectory.segments[1].text
        and len(service.seen) == 1
    )


def test_an_unpaired_surrogate_in_a_reply_is_replaced():
    long, tool = "<think>" + "on and on " * 60 + "</think>" + CALL, Interpreter()
    with FakeService(chat(lambda asked: "short \ud83d")).running() as service:
        trajectory = roll_out(
            Script(long, ANSWER), {"python": Echo()}, {"refiner": {**DEBUGGER, "at_tokens": 100}}, f"{service.url}/v1"
        )
        assert trajectory.helped == {"refiner": 1} and trajectory.segments[0].text == "short \ufffd"
        roll_out(Script(CALL, ANSWER), {"python": tool}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert tool.calls[1] == "short \ufffd"


def test_a_busy_server_is_retried(service):
    service.plan = [
        (503, {}, {"error": {"message": "loading"}}),
        (429, {"Retry-After": "0.1"}, b""),
        (200, {}, {"choices": []}),
        slow(1.5, (200, {}, {})),
    ]
    trajectory = roll_out(Script(CALL, ANSWER), {"python": Interpreter()}, {"debugger": DEBUGGER}, f"{service.url}/v1")
    assert "fine" in trajectory.segments[1].text and len(service.seen) == 5


def test_a_model_that_the_server_does_not_know_is_an_error(service):
    with pytest.raises(HelperUnavailable, match="absent.*does not exist"):
        roll_out(
            Script(CALL, ANSWER),
            {"python": Interpreter()},
            {"debugger": {**DEBUGGER, "model": "absent"}},
            f"{service.url}/v1",
        )


# --- servers of the job's own ----------------------------------------------------------------------------------------

REPLIES = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer({})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        text = "good" if asked == sys.argv[2] else "bad"
        self.answer({"choices": [{"message": {"content": text}}]})
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_job_serves_the_helpers_model_where_the_site_does_not(tmp_path, monkeypatch):
    def stand_in(engine, directory, name, port, gpus, max_tokens):
        assert (engine, directory, max_tokens) == ("transformers", tmp_path / "big", None)
        return [sys.executable, "-c", REPLIES, str(port), name]

    monkeypatch.setattr(server, "command", stand_in)
    settings = HelpersConfig(debugger=DEBUGGER, engine="transformers")
    with make_helpers(settings, "none", tmp_path, tmp_path / "log") as helpers:
        tool, engine = Interpreter(), Script(CALL, ANSWER)
        arguments = [5, 6], {"python": tool}, limits(), Sampling(), "r", helpers
        trajectory = asyncio.run(rollout(engine, qwen_like_tokenizer(), *arguments))
    assert tool.calls == ["print(1)", "good"] and trajectory.helped == {"debugger": 1}
    assert (tmp_path / "log.big").exists()


def test_a_server_that_does_not_start_is_named_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no weights')"])
    with pytest.raises(HelperUnavailable, match="big: a helper's server does not run: ended.*no weights"):
        with make_helpers(HelpersConfig(debugger=DEBUGGER, engine="transformers"), "none", tmp_path, tmp_path / "log"):
            pass


class Recorder:
    """In the place of a sidecar; keeps the command lines."""

    lines: list[list[str]] = []

    def __init__(self, command, *_):
        self.lines.append(command(1))

    def start(self): ...

    def stop(self): ...

    def wait(self, deadline):
        return "http://127.0.0.1:1"


def test_each_server_has_gpus_of_its_own_beside_the_engines(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "Sidecar", Recorder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7")
    settings = HelpersConfig(debugger=DEBUGGER, refiner={**DEBUGGER, "model": "small"}, gpus=2)
    models = {name: tmp_path / name for name in ("small", "big")}
    with server.own_servers(settings, models, tmp_path / "log") as addresses:
        assert set(addresses) == {"big", "small"}
    assert [line[:2] for line in Recorder.lines] == [["env", f"CUDA_VISIBLE_DEVICES={own}"] for own in ("4,5", "6,7")]
    assert all(line[line.index("--tensor-parallel-size") + 1] == "2" for line in Recorder.lines)
    assert all(line[line.index("--generation-config") + 1] == "vllm" for line in Recorder.lines)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(ConfigError, match="evaluation.helpers.gpus: too few GPUs.*\n.*gpu:TYPE:5"):
        with server.own_servers(settings, models, tmp_path / "log"):
            pass
