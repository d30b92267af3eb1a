"""Keys of services: in no error, log, record, cache, provenance or command line, whatever a service answers."""

import asyncio
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from support.canary import CANARY, ENCODED, assert_shown_nowhere, shows_the_key, watched
from support.fake_services import FakeService

from tir.common.errors import ConfigError, InfrastructureFault
from tir.common.http import Refused, Service
from tir.common.keys import JUDGE, VARIABLES, Redaction, read_key
from tir.common.sidecar import Sidecar
from tir.config.judge import Judge
from tir.config.params import operational_params, params


@pytest.mark.parametrize("shape", ["{}", "{}\n", "{}\r\n", " {} \t", "\n{}\r"])
def test_a_key_is_read_without_white_space_around_it(monkeypatch, shape):
    monkeypatch.setenv(JUDGE, shape.format(CANARY))
    assert read_key(JUDGE).get_secret_value() == CANARY and not shows_the_key(repr(read_key(JUDGE)))


@pytest.mark.parametrize("value", ["", "\n", "  \r\n"])
def test_a_blank_key_is_none(monkeypatch, value):
    monkeypatch.setenv(JUDGE, value)
    assert read_key(JUDGE) is None


@pytest.mark.parametrize("inside", ["\n", "\r", " ", "\u00e9", "\x7f"])
def test_a_key_that_no_header_may_contain_is_an_error_that_does_not_show_it(monkeypatch, inside):
    monkeypatch.setenv(JUDGE, CANARY + inside + CANARY)
    with pytest.raises(ConfigError, match=rf"\${JUDGE}: not a valid key: character {len(CANARY) + 1}") as raised:
        read_key(JUDGE)
    assert not shows_the_key(str(raised.value))


@pytest.mark.parametrize("form", ENCODED)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_a_service_sends_back_is_removed_in_every_form(form, status):
    redaction = Redaction(SecretStr(CANARY))
    assert not shows_the_key(redaction.in_error(f"İ before {form} after {form}")) and "[key]" in redaction.in_error(
        form
    )
    for cut in range(12, len(form)):
        assert not shows_the_key(redaction.in_error("x" + form[:cut])), cut
    service_of = {"key": SecretStr(CANARY), "attempts": 1, "proxies": False}
    with FakeService(lambda *_: (status, {}, {"error": {"message": form}, "said": [{form: form}]})).running() as fake:
        service = Service(fake.url, InfrastructureFault, "the service", **service_of)
        for read in (lambda answer: answer["said"], lambda answer: int(answer["error"]["message"])):
            try:
                text = json.dumps(asyncio.run(service.post("/", {}, read)))
            except (InfrastructureFault, Refused) as error:
                text = f"{error} {error!r} {error.__cause__}"
            if status != 200 or form != CANARY.upper():
                assert not shows_the_key(text), text
    assert not shows_the_key(repr(vars(service)) + repr(service._client))


def test_a_short_key_is_removed_from_errors_and_not_from_answers():
    redaction = Redaction(SecretStr("EMPTY"))
    assert redaction.in_error("Bearer EMPTY") == "Bearer [key]"
    assert redaction.in_answer({"text": ["EMPTY set"]}) == {"text": ["EMPTY set"]}
    assert Redaction(None).in_error("Bearer x") == "Bearer x"


def test_servers_beside_a_job_do_not_inherit_keys(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)
    command = [sys.executable, "-c", "import os; print(dict(os.environ)); raise SystemExit(1)"]
    server = Sidecar(lambda port: command, lambda why: InfrastructureFault(why), tmp_path / "log", 1.0)
    server.start()
    server.process.wait()
    server.stop()
    assert "PATH" in (tmp_path / "log").read_text() and not shows_the_key((tmp_path / "log").read_text())


class EchoingHub(BaseHTTPRequestHandler):
    """A hub that has one file in `a/d`, and refuses `a/secret`, sending the request's headers back."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("authorization"))
        sent, path = f"{self.headers} {quote(CANARY)}".replace("\n", " "), self.path.partition("?")[0]
        if path == "/datasets/a/d/resolve/main/x.jsonl" or path == f"/datasets/a/d/resolve/{'c' * 40}/x.jsonl":
            self.answer(200, b'{"question": "q", "answer": "1"}\n', {"ETag": '"x"', "X-Repo-Commit": "c" * 40})
        elif "broken" in path:
            self.answer(500, sent.encode(), {"X-Error-Message": sent})
        else:
            self.answer(403, sent.encode(), {"X-Error-Code": "GatedRepo", "X-Error-Message": sent})

    do_HEAD = do_GET

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("shape", ["{}\r\n", " {} ", "{0}\n{0}"])
def test_a_download_leaves_the_hubs_key_nowhere(tmp_path, shape):
    """Of a file and of a model, from a hub that sends headers back; the last shape is no key, and is refused."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), EchoingHub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_TOKEN": shape.format(CANARY),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    found = []
    for repo, script in (("a/d", "data"), ("a/secret", "data"), ("a/secret", "model"), ("a/broken", "model")):
        source = {"kind": "hub", "repo": repo, "revision": "main"} | ({"file": "x.jsonl"} if script == "data" else {})
        name = "benchmarks/gsm8k.jsonl" if script == "data" else "base"
        command = [sys.executable, "-m", f"scripts.fetch_{script}", "--name", name, "--output", tmp_path / "out" / name]
        found.append(watched([*command, "--params", json.dumps({"source": source})], environment))
    server.shutdown()
    server.server_close()
    if shape == "{0}\n{0}":
        assert all("$HF_TOKEN: not a valid key" in text for _, text, _ in found) and not server.seen
    else:
        assert [status for status, *_ in found] == [0, 1, 1, 1], found
        assert set(server.seen) - {None} == {f"Bearer {CANARY}"}  # the hub itself got it
        assert all("gated" in text for _, text, _ in found[1:3]) and "cannot fetch" in found[3][1]
        assert (tmp_path / "out/benchmarks/gsm8k.jsonl.source.json").exists()
    assert_shown_nowhere(tmp_path, [line for _, text, lines in found for line in (text, *lines)])


def test_a_run_with_a_judge_leaves_its_key_nowhere(tmp_path):
    """The judge's server sends the key back in refusals, faults, answers and headers. The first run is refused."""

    def answer(_path, headers, body):
        (tmp_path / "arrived").write_text(headers["authorization"])
        sent = f"{headers['authorization']} {quote(CANARY)}"
        if len(server.seen) == 1:
            return 401, {"X-Sent": sent}, {"error": {"message": f"wrong: {sent}"}}
        if len(server.seen) % 3 == 0:
            return 500, {"X-Sent": sent}, {"error": {"message": sent}}
        return 200, {"X-Sent": sent}, {"choices": [{"message": {"content": f"<judgment>Correct</judgment> {sent}"}}]}

    (tmp_path / "manifest.json").write_text('{"model_id": "judge"}')
    row = {"sample": 0, "question": "q", "gold": ["1"], "answer": "a", "finish": "answer", "segments": []}
    rows = [{"id": str(number), **row, "answer": f"a {number}"} for number in range(3)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = Judge(name="judge", attempts=20, concurrency=1, audit=0, min_calibration=0.0)
    command_lines, texts = set(), []
    with FakeService(answer).running() as server:
        command = [
            *(sys.executable, "-m", "scripts.judge_traces", "--traces", tmp_path / "t.jsonl", "--model", tmp_path),
            *("--endpoint", server.url, "--cache", tmp_path / "c.sqlite", "--server-log", tmp_path / "log"),
            *("--output", tmp_path / "j.jsonl", "--params", params(judge=judge, task="web", stands=None)),
            *("--operational", operational_params(judge=judge)),
        ]
        for expected in (1, 0):
            status, text, lines = watched(command, os.environ | {JUDGE: f"{CANARY}\r\n"})
            assert status == expected, text
            texts.append(text)
            command_lines |= lines
    assert (tmp_path / "arrived").read_text() == f"Bearer {CANARY}"  # the service itself got it
    (tmp_path / "arrived").unlink()
    assert "status 401" in texts[0] and "[key]" in texts[0] and any("judge_traces" in line for line in command_lines)
    written = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()}
    assert "[key]" in written["j.jsonl"] and "[key]" in written["c.sqlite"] and len(written) >= 6
    assert_shown_nowhere(tmp_path, [*texts, *command_lines])
