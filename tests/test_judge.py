"""The judge against real local servers: verdicts, faults, the cache, a kill in the middle, and the small server itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from shared_data import SHARED, needs_shared

from tir.data.benchmarks import load_items
from tir.errors import DataError, JudgeUnavailable
from tir.judge.cache import Verdict, VerdictCache
from tir.judge.calibration import calibrate, calibration_set
from tir.judge.client import JudgeClient
from tir.judge.prompt import messages, parse, parse_upstream, shown_output
from tir.judge.run import by_rules, judge_traces, summary
from tir.judge.sidecar import command, judge_server

ROOT = Path(__file__).resolve().parents[1]
PARAMS = {"engine": "transformers", "name": "judge", "gpus": 1, "seed": 0, "max_tokens": 16, "choices": True, "attempts": 3,
          "concurrency": 4, "timeout_s": 60.0, "rule_first": True, "audit": 0, "max_unreadable": 0.0, "min_calibration": 0.0, "task": "math"}


class Server:
    """An OpenAI-compatible server whose replies a test writes.

    `behave` maps (user text, how often it was asked) to a reply, a status code, or raw text that is no JSON.
    """

    def __init__(self, behave, delay: float = 0.0):
        self.seen: list[dict] = []
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(request: Request):
            body = await request.json()
            first = body["messages"][0]["content"]
            times = sum(each["messages"][0]["content"] == first for each in self.seen)
            self.seen.append(body)
            if delay:
                import asyncio

                await asyncio.sleep(delay)
            made = behave(first, times)
            if isinstance(made, int):
                return JSONResponse({"error": "made"}, made, headers={"Retry-After": "0"} if made == 429 else {})
            if isinstance(made, bytes):
                return PlainTextResponse(made)
            return {"choices": [{"message": {"role": "assistant", "content": made}}]}

        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(5)


def honest(text: str, times: int) -> str:
    """Right on the calibration set, and right wherever the output names the labelled answer."""
    for row in calibration_set():
        if messages(row["question"], [row["gold"]], row["output"])[0]["content"] == text:
            return "Correct" if row["verdict"] else "Incorrect"
    gold = text.partition("Labeled Answer: ")[2].partition("\n")[0]
    output = text.partition("(Last few lines): ")[2].partition("\n")[0]
    return "Correct" if gold in output else "Incorrect"


def client_of(server, tmp_path, **more) -> JudgeClient:
    options = {"attempts": 3, "pause_s": 0.01, "concurrency": 4} | more
    return JudgeClient(getattr(server, "url", server), "judge", VerdictCache(tmp_path / "cache.sqlite", {"name": "judge"}),
                       **options)


def asked(number: int) -> list[dict]:
    return messages(f"What is {number} + 0?", [str(number)], f"it is {number}")


def trace(number: int, answer: str | None) -> dict:
    return {"id": str(number), "sample": 0, "question": f"What is {number} + 0?", "gold": [str(number)], "answer": answer,
            "finish": "answer", "segments": [{"by": "model", "text": "<answer>no box</answer>"}]}


# --- wording and reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "verdict"), [
    ("Correct", True), ("incorrect", False), (" Correct.\n", True), ("**Incorrect**", False),
    ("<judgment>Correct</judgment>", True), ("thinking <judgment>\nincorrect\n</judgment> bye", False),
    ("", None), ("The answer is correct", None), ("not correct", None), ("Correct or Incorrect", None), ("correctly", None),
    ("Yes", None),
])  # fmt: skip
def test_a_reply_is_a_verdict_only_if_it_is_one_word(reply, verdict):
    assert parse(reply) is verdict


def test_upstreams_reading_is_kept_for_parity():
    assert parse_upstream("The answer is correct.") and not parse_upstream("not correct") and not parse_upstream("")
    assert not parse_upstream("correct? no, incorrect") and parse_upstream("<judgment>Correct</judgment> incorrect")


def test_the_judge_sees_the_answer_or_the_last_lines_the_model_wrote():
    assert shown_output(trace(1, "42")) == "42"
    long = "\n".join(f"line {number} of many words" for number in range(40))
    assert shown_output(trace(1, long)).splitlines() == [f"line {number} of many words" for number in range(30, 40)]
    silent = trace(1, None) | {"segments": [{"by": "model", "text": "I think\nseven"}, {"by": "tool", "text": "SECRET"}]}
    assert shown_output(silent) == "I think\nseven"


# --- client and cache -------------------------------------------------------------------------------------------


def test_requests_are_deterministic_and_equal_ones_are_asked_once(tmp_path):
    with Server(honest) as server:
        client = client_of(server, tmp_path, seed=7)
        found = client.ask([asked(1), asked(2), asked(1)])
        assert [each.verdict for each in found] == [True, True, True] and client.counts["calls"] == 2
        for body in server.seen:
            assert (body["temperature"], body["seed"], body["n"], body["model"]) == (0.0, 7, 1, "judge")
            assert body["structured_outputs"] == {"choice": ["Correct", "Incorrect"]}


def test_an_unchanged_rerun_makes_no_call_and_starts_no_server(tmp_path):
    with Server(honest) as server:
        client_of(server, tmp_path).ask(map(asked, range(20)))

    def no_server() -> str:
        raise AssertionError("a server was started")

    again = client_of(no_server, tmp_path)
    assert all(each.cached and each.verdict for each in again.ask(map(asked, range(20))))
    assert again.counts["calls"] == 0 and again.counts["cached"] == 20


def test_another_model_has_other_keys(tmp_path):
    first, second = (VerdictCache(tmp_path / "c.sqlite", {"name": name}) for name in ("a", "b"))
    first.put(asked(1), Verdict(True, "Correct", 1))
    assert first.get(asked(1)).verdict and second.get(asked(1)) is None and first.get(asked(2)) is None


def test_a_cache_that_is_no_database_is_named(tmp_path):
    (tmp_path / "c.sqlite").write_text("nonsense" * 1000)
    with pytest.raises(DataError, match="verdict cache.*"):
        VerdictCache(tmp_path / "c.sqlite", {})


@pytest.mark.parametrize("fault", [429, 500, 503, b"<html>a proxy</html>", b'{"choices": []}'])
def test_a_busy_or_babbling_server_is_asked_again(tmp_path, fault):
    with Server(lambda text, times: fault if times < 2 else "Incorrect") as server:
        client = client_of(server, tmp_path)
        assert [each.verdict for each in client.ask([asked(1)])] == [False]
        assert client.counts["repeated"] == 2 and client.counts["calls"] == 3


@pytest.mark.parametrize(("fault", "calls"), [(503, 3), (b"nonsense", 3), (404, 1), (401, 1)])
def test_a_server_that_stays_broken_is_named_and_nothing_is_cached(tmp_path, fault, calls):
    with Server(lambda text, times: fault) as server:
        client = client_of(server, tmp_path)
        with pytest.raises(JudgeUnavailable, match="does not answer"):
            client.ask([asked(1)])
        assert client.counts["calls"] == calls and client.cache.get(asked(1)) is None


def test_nobody_there_is_named(tmp_path):
    with pytest.raises(JudgeUnavailable, match="connect"):
        client_of("http://127.0.0.1:9", tmp_path).ask([asked(1)])


def test_an_unreadable_reply_is_asked_for_with_a_reminder(tmp_path):
    with Server(lambda text, times: "Well, it depends." if times == 0 else "Correct") as server:
        [found] = client_of(server, tmp_path).ask([asked(1)])
        assert (found.verdict, found.attempts) == (True, 2)
        roles = [each["role"] for each in server.seen[1]["messages"]]
        assert roles == ["user", "assistant", "user"] and "neither" in server.seen[1]["messages"][2]["content"]


def test_a_judge_that_never_gives_a_verdict_is_reported_not_replaced(tmp_path):
    with Server(lambda text, times: "It depends." if "What is 3 +" in text else honest(text, times)) as server:
        traces = [trace(number, f"it is {number}") for number in range(10)]
        with pytest.raises(JudgeUnavailable, match="1 of 10, e.g. item 3.*It depends"):
            judge_traces(traces, [False] * 10, lambda: client_of(server, tmp_path), audit=0)
        rows, report = judge_traces(traces, [False] * 10, lambda: client_of(server, tmp_path), audit=0, max_unreadable=0.1)
    assert [row["verdict"] for row in rows] == [None if number == 3 else True for number in range(10)]
    assert report["without_verdict"] == 1 and report["agreement"]["unreadable"] == 1
    assert report["cached"] == 9 and report["calls"] == 3  # the unreadable one is asked for again, never remembered


# --- rules first, agreement, calibration -------------------------------------------------------------------------


def test_rules_settle_what_they_can_and_are_audited(tmp_path):
    traces = [trace(0, "0"), trace(1, "1"), trace(2, "it is 2"), trace(3, "5"), trace(4, None), trace(5, " ")]
    ruled = [True, True, False, False, False, False]
    with Server(honest) as server:
        client = client_of(server, tmp_path)
        rows, report = judge_traces(traces, ruled, lambda: client, audit=0)
        assert [(row["verdict"], row["by"]) for row in rows] == [
            (True, "rules"), (True, "rules"), (True, "judge"), (False, "judge"), (False, "rules"), (False, "rules")]
        assert (report["asked"], report["calls"]) == (2, 2)
        assert report["agreement"] == {"n": 2, "agree": 1, "judge_only": 1, "rules_only": 0, "unreadable": 0}
        assert report["calibration"]["right"] == report["calibration"]["n"] == len(calibration_set())
        assert "agreement with the rules: 1 of 2" in summary(report)
        _, audited = judge_traces(traces, ruled, lambda: client, audit=3)
        assert audited["audited"] == 3 and audited["asked"] == 5 and audited["cached"] == 2
        everything, report = judge_traces(traces, ruled, lambda: client, rule_first=False, audit=0)
        assert report["settled_by_rules"] == 0 and all(row["by"] == "judge" for row in everything)


@pytest.mark.parametrize(("answer", "gold"), [
    ("2023年10月12日", "2024年10月12日"), ("会议在北京举行", "会议在上海举行"), ("Room 204, Hall B, 9:00", "Room 205, Hall B, 9:00"),
    ("$35 million", "$3.5 million"), ("10²", "102"), ("", "A")])
def test_of_the_web_only_the_same_text_is_settled_as_right(answer, gold):
    traces = [{"id": str(number), "sample": 0, "answer": each, "gold": [gold, "another"]}
              for number, each in enumerate((answer, f" {gold.upper()}\n", None))]
    assert by_rules(traces, "web") == [False, True, False]


@needs_shared
def test_a_web_answer_with_one_digit_changed_is_asked_about():
    golds = [gold for item in load_items(SHARED / "benchmarks/webwalker.jsonl")[:50] for gold in item.gold
             if re.search(r"\d", gold)]
    wrong = [re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), gold, count=1) for gold in golds]
    traces = [{"id": str(number), "sample": 0, "answer": each, "gold": [gold]}
              for number, (each, gold) in enumerate(zip(wrong, golds))]
    assert len(golds) > 20 and not any(by_rules(traces, "web"))


def test_nothing_to_ask_needs_no_judge():
    rows, report = judge_traces([trace(1, "1")], [True], lambda: pytest.fail("asked"), audit=0)
    assert rows[0]["verdict"] and report["calls"] == 0


def test_a_judge_that_fails_its_calibration_is_not_believed(tmp_path):
    with Server(lambda text, times: "Correct") as server:
        assert calibrate(client_of(server, tmp_path))["right"] == sum(row["verdict"] for row in calibration_set())
        with pytest.raises(JudgeUnavailable, match="fails its calibration"):
            judge_traces([trace(1, "7")], [False], lambda: client_of(server, tmp_path), min_calibration=0.8)


def test_the_calibration_set_is_balanced_and_words_nothing_twice():
    verdicts = [row["verdict"] for row in calibration_set()]
    assert len({(row["question"], row["output"]) for row in calibration_set()}) == len(verdicts) >= 16
    assert 0.3 <= sum(verdicts) / len(verdicts) <= 0.7


@needs_shared
def test_real_questions_pass_through_unchanged(tmp_path):
    items = load_items(SHARED / "benchmarks" / "math500.jsonl", 100)
    requests = [messages(item.question, item.gold, f"so {item.gold[0]}") for item in items]
    with Server(lambda text, times: "Correct") as server:
        assert all(each.verdict for each in client_of(server, tmp_path).ask(requests))
        texts = [body["messages"][0]["content"] for body in server.seen]
    for item in items:
        assert any(item.question.strip() in text and item.gold[0] in text for text in texts)


# --- the script: killed, resumed, repeated ------------------------------------------------------------------------


def script(tmp_path, endpoint: str) -> list[str]:
    return [sys.executable, "-m", "scripts.judge_traces", "--traces", str(tmp_path / "t.jsonl"), "--model", str(tmp_path),
            "--endpoint", endpoint, "--cache", str(tmp_path / "cache.sqlite"), "--output", str(tmp_path / "j.jsonl"),
            "--server-log", str(tmp_path / "server.log"), "--params", json.dumps(PARAMS)]


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    (tmp_path / "manifest.json").write_text('{"model_id": "judge"}')
    rows = [trace(number, f"{number} or not") for number in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Server(honest, delay=0.15) as server:
        process = subprocess.Popen(script(tmp_path, server.url), cwd=ROOT, stderr=subprocess.DEVNULL)
        while len(server.seen) < 30:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "j.jsonl").exists()
        before = len(server.seen)
        subprocess.run(script(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
        # Every text once, but for the few that were in flight when it died.
        assert before >= 30 and len(server.seen) - before < 40 + len(calibration_set()) - 20
        found = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
        assert [row["id"] for row in found] == [str(number) for number in range(40)] and all(row["verdict"] for row in found)
        done = len(server.seen)
        subprocess.run(script(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
        assert len(server.seen) == done  # nothing changed: nothing asked
    report = json.loads((tmp_path / "j.jsonl.report.json").read_text())
    assert (report["calls"], report["cached"], report["asked"]) == (0, 40, 40)


# --- the small server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from test_tiny_model import sample_text

    from tir.tiny_model import TinyModelSettings, make_tiny_model

    directory = tmp_path_factory.mktemp("tiny")
    make_tiny_model(sample_text(), directory, TinyModelSettings(hidden=64, layers=1, heads=2, intermediate=64))
    return directory


def test_the_small_server_speaks_the_protocol_and_ends_with_its_job(tiny, tmp_path):
    import httpx

    with judge_server(lambda port: command("transformers", tiny, "judge", port, 1), log_path=tmp_path / "log",
                      ready_timeout_s=120) as start:
        url = start()
        assert start() == url  # one server, however often it is asked for
        assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"] == "judge"
        first = client_of(url, tmp_path).ask(map(asked, range(3)))
        second = client_of(url, tmp_path / "other").ask(map(asked, range(3)))
        assert all(each.verdict is not None for each in first)
        assert [each.verdict for each in first] == [each.verdict for each in second]
        free = httpx.post(f"{url}/v1/chat/completions", trust_env=False, timeout=60, json={
            "model": "judge", "messages": asked(1), "max_tokens": 5}).json()
        assert isinstance(free["choices"][0]["message"]["content"], str)
        with pytest.raises(JudgeUnavailable, match="no model other"):
            JudgeClient(url, "other", VerdictCache(tmp_path / "o.sqlite", {})).ask([asked(1)])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_a_server_that_cannot_start_is_named(tmp_path):
    lines = "print('no such model'); raise SystemExit(3)"
    with (
        judge_server(lambda port: [sys.executable, "-c", lines], log_path=tmp_path / "log") as start,
        pytest.raises(JudgeUnavailable, match="status 3.*no such model"),
    ):
        start()


def test_a_killed_job_takes_its_server_along(tmp_path):
    lines = (f"from tir.judge.sidecar import judge_server, _start\nimport sys, time\n"
             f"p = _start([sys.executable, '-c', 'import time; time.sleep(60)'], {str(tmp_path / 'log')!r})\n"
             "print(p.pid, flush=True)\ntime.sleep(60)")
    job = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    server = int(job.stdout.readline())
    time.sleep(0.5)
    job.kill()
    job.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.kill(server, signal.SIGKILL)
    pytest.fail("the server outlived its job")


def test_the_table_of_judgements_says_what_was_asked_and_believed(tmp_path):
    from tir.tables import build
    from tir.tables.inputs import Inputs

    traces = [trace(0, "0"), trace(1, "it is 1"), trace(2, "9")]
    with Server(honest) as server:
        _, report = judge_traces(traces, [True, False, False], lambda: client_of(server, tmp_path), audit=1)
    path = tmp_path / "judge" / "sft" / "gsm8k.jsonl.report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    table = build("judgements", Inputs(data=[path]), {"judge": "Qwen", "decides": False})[""]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["model"], row["benchmark"], row["settled_by_rules"], row["asked"]) == ("sft", "gsm8k", 1, 3)
    assert (row["agree_with_rules"], row["judge_alone"], row["calibration"]) == ("2 of 3", 1, "16 of 16")
    assert "WebThinker/Tool-Star judge" in table.notes[0] and "the rules decide" in table.notes[0]
    assert build("judgements", Inputs(), {"judge": "Qwen", "decides": True})[""].notes == ["Nobody was asked: rules only."]
