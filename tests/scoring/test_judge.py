"""The judge with real local servers: verdicts, faults, the cache, a killed job, and the small server."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import SecretStr
from support.fake_services import FakeService, dripping
from support.paths import ROOT
from support.processes import alive, wait_until
from support.shared_data import SHARED, needs_shared

from tir.common.errors import DataError, JudgeUnavailable
from tir.common.model_server import command
from tir.config.judge import Judge
from tir.config.params import operational_params, params
from tir.data.benchmarks import load_items
from tir.scoring.judge.cache import Verdict, VerdictCache
from tir.scoring.judge.calibration import calibrate, calibration_set
from tir.scoring.judge.client import JudgeClient
from tir.scoring.judge.prompt import messages, parse, shown_output
from tir.scoring.judge.run import by_rules, judge_traces, summary
from tir.scoring.judge.sidecar import judge_server

JUDGE = Judge(
    engine="transformers",
    name="judge",
    gpus=1,
    attempts=3,
    concurrency=4,
    timeout_s=60.0,
    audit=0,
    min_calibration=0.0,
)


class Server:
    """An OpenAI-compatible server with replies set by the test.

    `behave` maps (user text, number of earlier requests with it) to a reply (str), a status code (int), or a raw body
    that is not JSON (bytes).
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
            reply = behave(first, times)
            if isinstance(reply, int):
                return JSONResponse({"error": "fake"}, reply, headers={"Retry-After": "0"} if reply == 429 else {})
            if isinstance(reply, bytes):
                return PlainTextResponse(reply)
            return {"choices": [{"message": {"role": "assistant", "content": reply}}]}

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


def correct_judge(text: str, times: int) -> str:
    """The known verdict on the calibration set; elsewhere "Correct" if the output contains the labelled answer."""
    for row in calibration_set():
        if messages(row["question"], [row["gold"]], row["output"])[0]["content"] == text:
            return "Correct" if row["verdict"] else "Incorrect"
    gold = text.partition("Labeled Answer: ")[2].partition("\n")[0]
    output = text.partition("(Last few lines): ")[2].partition("\n")[0]
    return "Correct" if gold in output else "Incorrect"


def client_of(server, tmp_path, api_key=None, **changed) -> JudgeClient:
    judge = Judge(**{"name": "judge", "attempts": 3, "concurrency": 4} | changed)
    cache = VerdictCache(tmp_path / "cache.sqlite", {"name": "judge"})
    return JudgeClient(getattr(server, "url", server), judge, cache, pause_s=0.01, api_key=api_key)


def request(number: int) -> list[dict]:
    return messages(f"What is {number} + 0?", [str(number)], f"it is {number}")


def trace(number: int, answer: str | None) -> dict:
    return {
        "id": str(number),
        "sample": 0,
        "question": f"What is {number} + 0?",
        "gold": [str(number)],
        "answer": answer,
        "finish": "answer",
        "segments": [{"by": "model", "text": "<answer>no box</answer>"}],
    }


# --- prompt and parsing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "verdict"), [
    ("Correct", True), ("incorrect", False), (" Correct.\n", True), ("**Incorrect**", False),
    ("<judgment>Correct</judgment>", True), ("thinking <judgment>\nincorrect\n</judgment> bye", False),
    ("", None), ("The answer is correct", None), ("not correct", None), ("Correct or Incorrect", None),
    ("correctly", None), ("Yes", None),
])  # fmt: skip
def test_a_reply_is_a_verdict_only_if_it_is_one_word(reply, verdict):
    assert parse(reply) is verdict


def test_the_judge_sees_the_answer_or_the_last_lines_of_model_text():
    assert shown_output(trace(1, "42")) == "42"
    long = "\n".join(f"line {number} of many words" for number in range(40))
    assert shown_output(trace(1, long)).splitlines() == [f"line {number} of many words" for number in range(30, 40)]
    without_answer = trace(1, None) | {
        "segments": [{"by": "model", "text": "I think\nseven"}, {"by": "tool", "text": "SECRET"}]
    }
    assert shown_output(without_answer) == "I think\nseven"


# --- client and cache -------------------------------------------------------------------------------------------


def test_requests_are_deterministic_and_equal_requests_are_sent_once(tmp_path):
    with Server(correct_judge) as server:
        client = client_of(server, tmp_path, seed=7)
        found = client.ask([request(1), request(2), request(1)])
        assert [each.verdict for each in found] == [True, True, True] and client.counts["calls"] == 2
        for body in server.seen:
            assert (body["temperature"], body["seed"], body["n"], body["model"]) == (0.0, 7, 1, "judge")
            assert body["structured_outputs"] == {"choice": ["Correct", "Incorrect"]}


def test_an_unchanged_rerun_makes_no_call_and_starts_no_server(tmp_path):
    with Server(correct_judge) as server:
        client_of(server, tmp_path).ask(map(request, range(20)))

    def no_server() -> str:
        raise AssertionError("a server was started")

    again = client_of(no_server, tmp_path)
    assert all(each.verdict for each in again.ask(map(request, range(20))))
    assert again.counts["calls"] == 0 and again.counts["cached"] == 20


def test_cache_keys_depend_on_the_model(tmp_path):
    first, second = (VerdictCache(tmp_path / "c.sqlite", {"name": name}) for name in ("a", "b"))
    first.put(request(1), Verdict(True, "Correct", 1))
    assert first.get(request(1)).verdict and second.get(request(1)) is None and first.get(request(2)) is None


def test_a_cache_file_that_is_not_a_database_is_an_error(tmp_path):
    (tmp_path / "c.sqlite").write_text("nonsense" * 1000)
    with pytest.raises(DataError, match="verdict cache.*"):
        VerdictCache(tmp_path / "c.sqlite", {})


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [("query_only = 1", "readonly"), ("max_page_count = 1", "full")],
)
def test_a_full_or_read_only_cache_is_an_infrastructure_fault_and_no_reason_to_delete_it(tmp_path, pragma, reason):
    cache = VerdictCache(tmp_path / "c.sqlite", {})
    cache.put(request(1), Verdict(True, "Correct", 1))
    cache._file.execute(f"PRAGMA {pragma}")
    with pytest.raises(JudgeUnavailable, match=f"verdict cache cannot be used now.*{reason}") as raised:
        for number in range(2, 200):
            cache.put(request(number), Verdict(True, "Correct " * 99, 1))
    assert "rm " not in raised.value.remedy and "mv " not in raised.value.remedy and "df -h" in raised.value.remedy
    assert cache.get(request(1)).verdict


def test_a_cache_in_a_folder_that_cannot_be_made_is_an_infrastructure_fault(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "c.sqlite", tmp_path):
        with pytest.raises(JudgeUnavailable, match="cannot be used now"):
            VerdictCache(path, {})


def test_the_remedy_for_a_damaged_cache_keeps_its_file(tmp_path):
    path = tmp_path / "c.sqlite"
    cache = VerdictCache(path, {})
    cache.put(request(1), Verdict(True, "Correct", 1))
    cache.close()
    path.write_bytes(path.read_bytes()[:5000] + b"x" * 5000)
    before = path.read_bytes()
    with pytest.raises(DataError) as raised:
        VerdictCache(path, {}).get(request(1))
    subprocess.run(raised.value.remedy, shell=True, check=True)
    assert VerdictCache(path, {}).get(request(1)) is None and (tmp_path / "c.sqlite.damaged").read_bytes() == before


def test_a_locked_cache_is_an_infrastructure_fault_and_no_reason_to_delete_it(tmp_path):
    cache = VerdictCache(tmp_path / "c.sqlite", {})
    cache._file.execute("PRAGMA busy_timeout = 100")
    with sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JudgeUnavailable, match="verdict cache is locked") as raised:
            cache.put(request(1), Verdict(True, "Correct", 1))
        assert "rm " not in str(raised.value)
        other.execute("ROLLBACK")
    other.close()
    cache.put(request(1), Verdict(True, "Correct", 1))
    assert cache.get(request(1)).verdict
    cache.close()


@pytest.mark.parametrize("fault", [429, 500, 503, b"<html>a proxy</html>", b'{"choices": []}'])
def test_a_busy_server_and_a_malformed_body_are_retried(tmp_path, fault):
    with Server(lambda text, times: fault if times < 2 else "Incorrect") as server:
        client = client_of(server, tmp_path)
        assert [each.verdict for each in client.ask([request(1)])] == [False]
        assert client.counts["repeated"] == 2 and client.counts["calls"] == 3


@pytest.mark.parametrize(("fault", "calls"), [(503, 3), (b"nonsense", 3), (404, 1), (401, 1)])
def test_a_permanent_fault_is_an_error_and_is_not_cached(tmp_path, fault, calls):
    with Server(lambda text, times: fault) as server:
        client = client_of(server, tmp_path)
        with pytest.raises(JudgeUnavailable, match="does not answer"):
            client.ask([request(1)])
        assert client.counts["calls"] == calls and client.cache.get(request(1)) is None


def test_a_refused_connection_is_an_error(tmp_path):
    with pytest.raises(JudgeUnavailable, match="connect"):
        client_of("http://127.0.0.1:9", tmp_path).ask([request(1)])


def test_the_timeout_covers_the_whole_reply_and_no_error_shows_the_key(tmp_path):
    with dripping() as url, pytest.raises(JudgeUnavailable, match="Timeout: no whole answer in 0.3 s"):
        client_of(url, tmp_path, timeout_s=0.3, attempts=2).ask([request(1)])
    with (
        FakeService(lambda *_: (401, {}, {"error": {"message": "wrong key s3cret"}})).running() as service,
        pytest.raises(JudgeUnavailable, match=r"status 401: wrong key \[key\]") as raised,
    ):
        client_of(service, tmp_path, api_key=SecretStr("s3cret")).ask([request(1)])
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("depth", [900, 200_000])
def test_a_deeply_nested_answer_is_a_fault_of_the_server(tmp_path, status, depth):
    content = b'{"error": ' + b"[" * depth + b"]" * depth + b"}"
    with FakeService(lambda *_: (status, {}, content)).running() as service, pytest.raises(JudgeUnavailable) as raised:
        client_of(service, tmp_path, api_key=SecretStr("s3cret-s3cret")).ask([request(1)])
    assert len(str(raised.value)) < 1000


def test_an_unreadable_reply_is_followed_by_a_reminder(tmp_path):
    with Server(lambda text, times: "Well, it depends." if times == 0 else "Correct") as server:
        [found] = client_of(server, tmp_path).ask([request(1)])
        assert (found.verdict, found.attempts) == (True, 2)
        roles = [each["role"] for each in server.seen[1]["messages"]]
        assert roles == ["user", "assistant", "user"] and "neither" in server.seen[1]["messages"][2]["content"]


def test_unreadable_replies_are_an_error_or_rows_without_verdict(tmp_path, capsys):
    with Server(lambda text, times: "It depends." if "What is 3 +" in text else correct_judge(text, times)) as server:
        traces = [trace(number, f"it is {number}") for number in range(10)]
        with pytest.raises(JudgeUnavailable, match="1 of 10, e.g. item 3.*It depends"):
            judge_traces(traces, [False] * 10, lambda: client_of(server, tmp_path), Judge(audit=0))
        rows, report = judge_traces(
            traces, [False] * 10, lambda: client_of(server, tmp_path), Judge(audit=0, max_unreadable=0.1)
        )
    assert [row["verdict"] for row in rows] == [None if number == 3 else True for number in range(10)]
    assert report["without_verdict"] == 1 and report["agreement"]["unreadable"] == 1
    # The unreadable reply was not cached.
    assert f"{9 + len(calibration_set())} from the cache, 3 requests" in capsys.readouterr().err


# --- rules first, agreement, calibration -------------------------------------------------------------------------


def test_rules_settle_equal_and_missing_answers_and_some_are_audited(tmp_path):
    traces = [trace(0, "0"), trace(1, "1"), trace(2, "it is 2"), trace(3, "5"), trace(4, None), trace(5, " ")]
    rule_verdicts = [True, True, False, False, False, False]
    with Server(correct_judge) as server:
        client = client_of(server, tmp_path)
        rows, report = judge_traces(traces, rule_verdicts, lambda: client, Judge(audit=0))
        assert [(row["verdict"], row["by"]) for row in rows] == [
            (True, "rules"),
            (True, "rules"),
            (True, "judge"),
            (False, "judge"),
            (False, "rules"),
            (False, "rules"),
        ]
        assert report["asked"] == 2 and client.counts["calls"] == 2 + len(calibration_set())
        assert report["agreement"] == {"n": 2, "agree": 1, "judge_only": 1, "rules_only": 0, "unreadable": 0}
        assert report["calibration"]["right"] == report["calibration"]["n"] == len(calibration_set())
        assert "agreement with the rules: 1 of 2" in summary(report)
        _, audited = judge_traces(traces, rule_verdicts, lambda: client, Judge(audit=3))
        assert audited["audited"] == 3 and audited["asked"] == 5
        everything, report = judge_traces(traces, rule_verdicts, lambda: client, Judge(rule_first=False, audit=0))
        assert report["settled_by_rules"] == 0 and all(row["by"] == "judge" for row in everything)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2023年10月12日", "2024年10月12日"),
        ("会议在北京举行", "会议在上海举行"),
        ("Room 204, Hall B, 9:00", "Room 205, Hall B, 9:00"),
        ("$35 million", "$3.5 million"),
        ("10²", "102"),
        ("", "A"),
    ],
)
def test_rules_settle_a_web_answer_only_if_it_is_the_same_text(answer, gold):
    traces = [
        {"id": str(number), "sample": 0, "answer": each, "gold": [gold, "another"]}
        for number, each in enumerate((answer, f" {gold.upper()}\n", None))
    ]
    assert by_rules(traces, "web") == [False, True, False]


@needs_shared
def test_a_web_answer_with_one_digit_changed_is_not_settled_by_rules():
    golds = [
        gold
        for item in load_items(SHARED / "benchmarks/webwalker.jsonl")[:50]
        for gold in item.gold
        if re.search(r"\d", gold)
    ]
    wrong = [re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), gold, count=1) for gold in golds]
    traces = [
        {"id": str(number), "sample": 0, "answer": each, "gold": [gold]}
        for number, (each, gold) in enumerate(zip(wrong, golds))
    ]
    assert len(golds) > 20 and not any(by_rules(traces, "web"))


def test_no_client_is_made_if_rules_settle_everything():
    rows, report = judge_traces([trace(1, "1")], [True], lambda: pytest.fail("a client was made"), Judge(audit=0))
    assert rows[0]["verdict"] and report["asked"] == 0


def test_a_judge_that_fails_its_calibration_is_an_error(tmp_path):
    with Server(lambda text, times: "Correct") as server:
        assert calibrate(client_of(server, tmp_path))["right"] == sum(row["verdict"] for row in calibration_set())
        with pytest.raises(JudgeUnavailable, match="fails its calibration"):
            judge_traces([trace(1, "7")], [False], lambda: client_of(server, tmp_path), Judge(min_calibration=0.8))


def test_the_calibration_set_is_balanced_and_has_no_duplicates():
    verdicts = [row["verdict"] for row in calibration_set()]
    assert len({(row["question"], row["output"]) for row in calibration_set()}) == len(verdicts) >= 16
    assert 0.3 <= sum(verdicts) / len(verdicts) <= 0.7


@needs_shared
def test_benchmark_questions_reach_the_server_unchanged(tmp_path):
    items = load_items(SHARED / "benchmarks" / "math500.jsonl", 100)
    requests = [messages(item.question, item.gold, f"so {item.gold[0]}") for item in items]
    with Server(lambda text, times: "Correct") as server:
        assert all(each.verdict for each in client_of(server, tmp_path).ask(requests))
        texts = [body["messages"][0]["content"] for body in server.seen]
    for item in items:
        assert any(item.question.strip() in text and item.gold[0] in text for text in texts)


# --- the script -----------------------------------------------------------------------------------------------------


def script(tmp_path, endpoint: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "scripts.judge_traces",
        "--traces",
        str(tmp_path / "t.jsonl"),
        "--model",
        str(tmp_path),
        "--endpoint",
        endpoint,
        "--cache",
        str(tmp_path / "cache.sqlite"),
        "--output",
        str(tmp_path / "j.jsonl"),
        "--server-log",
        str(tmp_path / "server.log"),
        "--params",
        params(judge=JUDGE, task="math", stands=None),
        "--operational",
        operational_params(judge=JUDGE),
    ]


def test_a_killed_job_resumes_from_the_cache(tmp_path):
    (tmp_path / "manifest.json").write_text('{"model_id": "judge"}')
    rows = [trace(number, f"{number} or not") for number in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Server(correct_judge, delay=0.15) as server:
        process = subprocess.Popen(script(tmp_path, server.url), cwd=ROOT, stderr=subprocess.DEVNULL)
        while len(server.seen) < 30:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "j.jsonl").exists()
        before = len(server.seen)
        subprocess.run(script(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
        # Only requests in flight at the time of the kill are sent twice.
        assert before >= 30 and len(server.seen) - before < 40 + len(calibration_set()) - 20
        found = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
        assert [row["id"] for row in found] == [str(number) for number in range(40)] and all(
            row["verdict"] for row in found
        )
        resumed = [(tmp_path / name).read_bytes() for name in ("j.jsonl", "j.jsonl.report.json")]
        done = len(server.seen)
        subprocess.run(script(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
        assert len(server.seen) == done  # an unchanged rerun sends no request
        # The same bytes from the cache and without an interruption.
        assert [(tmp_path / name).read_bytes() for name in ("j.jsonl", "j.jsonl.report.json")] == resumed
        (tmp_path / "cache.sqlite").unlink()
        subprocess.run(script(tmp_path, server.url), cwd=ROOT, check=True, capture_output=True)
        assert len(server.seen) > done
        assert [(tmp_path / name).read_bytes() for name in ("j.jsonl", "j.jsonl.report.json")] == resumed
    assert json.loads((tmp_path / "j.jsonl.report.json").read_text())["asked"] == 40


# --- the small server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from support.tiny_text import sample_text

    from tir.config.world import TinyModelSettings
    from tir.world.tiny_model import make_tiny_model

    directory = tmp_path_factory.mktemp("tiny")
    make_tiny_model(sample_text(), directory, TinyModelSettings(hidden=64, layers=1, heads=2, intermediate=64))
    return directory


def test_the_small_server_answers_like_openai_and_stops_with_its_job(tiny, tmp_path):
    import httpx

    with judge_server(
        lambda port: command("transformers", tiny, "judge", port, 1), log_path=tmp_path / "log", ready_timeout_s=120
    ) as start:
        url = start()
        assert start() == url  # a second call returns the same server
        assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"] == "judge"
        first = client_of(url, tmp_path).ask(map(request, range(3)))
        second = client_of(url, tmp_path / "other").ask(map(request, range(3)))
        assert all(each.verdict is not None for each in first)
        assert [each.verdict for each in first] == [each.verdict for each in second]
        free = httpx.post(
            f"{url}/v1/chat/completions",
            trust_env=False,
            timeout=60,
            json={"model": "judge", "messages": request(1), "max_tokens": 5},
        ).json()
        assert isinstance(free["choices"][0]["message"]["content"], str)
        with pytest.raises(JudgeUnavailable, match="no model other"):
            JudgeClient(url, Judge(name="other"), VerdictCache(tmp_path / "o.sqlite", {})).ask([request(1)])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_a_server_that_does_not_start_is_an_error_with_its_log(tmp_path):
    lines = "print('no such model'); raise SystemExit(3)"
    with (
        judge_server(lambda port: [sys.executable, "-c", lines], log_path=tmp_path / "log") as start,
        pytest.raises(JudgeUnavailable, match="status 3.*no such model"),
    ):
        start()


def test_the_server_stops_if_its_job_is_killed(tmp_path):
    server = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    lines = (
        "import sys, time\nfrom tir.scoring.judge.sidecar import judge_server\n"
        f"with judge_server(lambda port: [sys.executable, '-c', {server!r}], log_path=sys.argv[1]) as start:\n"
        "    start()"
    )
    log = tmp_path / "log"
    job = subprocess.Popen([sys.executable, "-c", lines, str(log)], cwd=ROOT)
    assert wait_until(lambda: log.is_file() and log.read_text().strip(), 60)
    job.kill()
    job.wait()
    assert wait_until(lambda: not alive(int(log.read_text())), 10)


def test_the_table_of_judgements_has_agreement_and_calibration(tmp_path):
    from tir.analysis.tables import build
    from tir.analysis.tables.inputs import Inputs

    traces = [trace(0, "0"), trace(1, "it is 1"), trace(2, "9")]
    with Server(correct_judge) as server:
        _, report = judge_traces(traces, [True, False, False], lambda: client_of(server, tmp_path), Judge(audit=1))
    path = tmp_path / "judge" / "sft" / "gsm8k.jsonl.report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    table = build("judgements", Inputs(data=[path]), {"judge": "Qwen", "decides": False})[""]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["model"], row["benchmark"], row["settled_by_rules"], row["asked"]) == ("sft", "gsm8k", 1, 3)
    assert (row["agree_with_rules"], row["judge_alone"], row["calibration"]) == ("2 of 3", 1, "16 of 16")
    assert "WebThinker/Tool-Star judge" in table.notes[0] and "the rules decide" in table.notes[0]
    assert build("judgements", Inputs(), {"judge": "Qwen", "decides": True})[""].notes == [
        "No judge was configured; the rules decide."
    ]
