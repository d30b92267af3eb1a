"""Retrieval over HTTP: FlashRAG's wire format, micro-batching, draining; a client whose faults are typed."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.server
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fake_services import dripping
from processes import wait_until
from tiny_retrieval import ROOT, FakeIndex, bm25_directory, corpus, dense_directory, model_directory, serving  # noqa: F401  (fixtures)

from tir.errors import SearchUnavailable
from tir.retrieval import client as client_module
from tir.retrieval.batching import MicroBatcher, ResultCache
from tir.retrieval.client import SearchClient, mark_fault, resolve_endpoint
from tir.retrieval.index import load_index
from tir.retrieval.passage import join_contents
from tir.retrieval.smoke import QUESTIONS, smoke

# --- server -------------------------------------------------------------------------------------------------------


def test_wire_format():
    with serving(FakeIndex()) as (url, _), httpx.Client(base_url=url) as http_client:
        health = http_client.get("/health")
        assert health.json() == {"status": "healthy", "retrievers": {"total": 1, "available": 1}}
        assert health.headers["x-index-digest"] == "0123456789abcdef"
        documents = http_client.post("/search", json={"query": "who"}).json()
        assert len(documents) == 10 and documents[1] == {"id": "1", "contents": '"who"\nrank 1'}
        documents, scores = http_client.post("/search", json={"query": "who", "top_n": 2, "return_score": True}).json()
        assert [row["id"] for row in documents] == ["0", "1"] and scores == [1.0, 0.9]
        batch = http_client.post("/batch_search", json={"query": ["a", "b", "a"], "top_n": 3}).json()
        contents = [[row["contents"] for row in rows] for rows in batch]
        assert contents == [[f'"{query}"\nrank {rank}' for rank in range(3)] for query in "aba"]
        body = {"query": ["a", "b"], "top_n": 1, "return_score": True}
        batch, scores = http_client.post("/batch_search", json=body).json()
        assert len(batch) == 2 and scores == [[1.0], [1.0]]
        assert http_client.post("/batch_search", json={"query": []}).json() == []
        assert http_client.post("/search", json={"query": " \n"}).status_code == 400
        assert len(http_client.post("/batch_search", json={"query": ["a", ""]}).json()) == 2  # as FlashRAG: one alone is refused
        for body in ({}, {"query": 3}, {"query": "a", "top_n": 0}, {"query": ["a"]}):
            assert http_client.post("/search", json=body).status_code == 422
        assert http_client.get("/search").status_code == 405


def test_token():
    with serving(FakeIndex(), token="secret") as (url, _):
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.post(f"{url}/search", json={"query": "a"}).status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        assert httpx.post(f"{url}/search", json={"query": "a"}, headers=wrong).status_code == 401
        assert len(SearchClient(url, top_k=2, token="secret").batch_search_sync(["a"])[0]) == 2
        with pytest.raises(SearchUnavailable, match="401"):  # at once: no retry can mend it
            SearchClient(url).batch_search_sync(["a"])


def test_micro_batching_shares_searches():
    index = FakeIndex(delay_s=0.05)

    async def ask(url):
        clients = [SearchClient(url, top_k=1 + number % 5) for number in range(8)]
        found = await asyncio.gather(*(clients[number % 8].search(f"query {number % 50}") for number in range(200)))
        for number, passages in enumerate(found):
            assert len(passages) == 1 + number % 8 % 5
            assert all(passage.title == f"query {number % 50}" for passage in passages)

    with serving(index, max_batch=64) as (url, _):
        asyncio.run(ask(url))
    assert len(index.batches) <= 8  # 200 requests
    assert max(len(batch) for batch in index.batches) >= 20
    assert all(len(batch) == len(set(batch)) <= 64 for batch in index.batches)


def test_lone_client_does_not_wait_for_the_window():
    with serving(FakeIndex(), window_s=1.0) as (url, _), httpx.Client(base_url=url) as http_client:
        started = time.monotonic()
        for number in range(5):
            http_client.post("/search", json={"query": f"q{number}"})
        assert time.monotonic() - started < 1.0


def test_cache():
    index = FakeIndex()
    with serving(index, cache_size=2) as (url, _), httpx.Client(base_url=url) as http_client:
        ask = lambda query, top_n: http_client.post("/search", json={"query": query, "top_n": top_n}).json()  # noqa: E731
        first = ask("a", 5)
        assert ask("a", 3) == first[:3] and index.batches == [["a"]]
        assert len(ask("a", 8)) == 8 and index.batches == [["a"], ["a"]]  # more than remembered
        ask("b", 1), ask("c", 1), ask("b", 1)
        assert len(index.batches) == 4
        ask("a", 1)  # pushed out by b and c
        assert len(index.batches) == 5
    index.batches.clear()
    with serving(index) as (url, _), httpx.Client(base_url=url) as http_client:
        for top_n in (101, 101):
            assert len(http_client.post("/search", json={"query": "a", "top_n": top_n}).json()) == 101
        assert len(index.batches) == 2  # too many to remember
    cache = ResultCache(10)
    cache.put("a", "one index", 3, [])
    assert cache.get("a", "one index", 3) == [] and cache.get("a", "another", 3) is None


def test_health_answers_during_a_slow_search():
    index = FakeIndex(delay_s=2.0)
    with serving(index) as (url, _), httpx.Client(base_url=url) as http_client:
        searching = threading.Thread(target=lambda: httpx.post(f"{url}/search", json={"query": "slow"}))
        searching.start()
        assert wait_until(lambda: index.batches, 20)
        for _ in range(5):
            assert http_client.get("/health").status_code == 200
        assert searching.is_alive()
        searching.join()


def test_a_large_search_does_not_enlarge_what_is_remembered_of_others():
    async def both():
        batcher = MicroBatcher(FakeIndex(), window_s=0.05)
        batcher._wanted = batcher._expected = 2
        batcher.start()
        small, large = await asyncio.gather(batcher.search(["a"], 2), batcher.search(["b"], 50))
        assert len(small[0]) == 2 and len(large[0]) == 50
        assert batcher.cache.get("a", batcher.index.digest, 3) is None and len(batcher.cache.get("b", batcher.index.digest, 50)) == 50
        await batcher.stop()

    asyncio.run(both())


def test_drain_answers_what_is_in_flight():
    index = FakeIndex(delay_s=1.5)
    with serving(index) as (url, server):
        answers = []

        def ask(number: int) -> None:
            answers.append(httpx.post(f"{url}/search", json={"query": f"q{number}"}).status_code)

        searching = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in searching:
            thread.start()
        batcher = server.config.app.state.batcher
        assert wait_until(lambda: sum(map(len, index.batches)) + len(batcher._waiting) == 4, 20)
        assert len(answers) < 4
        server.should_exit = True
        for thread in searching:
            thread.join()
        assert answers == [200] * 4


def test_sigterm_answers_what_was_sent(bm25_directory, tmp_path):
    """Also requests that the kernel holds and the server has not read yet: here it stands still while they come."""
    endpoint_file = tmp_path / "endpoint.json"
    server = start_server(bm25_directory, "--port", "0", "--endpoint-file", str(endpoint_file))
    assert wait_until(endpoint_file.exists, 30)
    endpoint, body = json.loads(endpoint_file.read_text()), b'{"query": "king", "top_n": 1}'
    server.send_signal(signal.SIGSTOP)
    sent = [socket.create_connection((endpoint["host"], endpoint["port"])) for _ in range(60)]
    for connection in sent:
        connection.settimeout(20)
        connection.sendall(b"POST /search HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                           b"content-length: %d\r\n\r\n%s" % (len(body), body))
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    for connection in sent:
        with connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait(15) == 0
    server.stderr.close()


def test_index_error_is_a_fault_and_not_the_end():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=1, retry_budget_s=0.3)
        with pytest.raises(SearchUnavailable, match="corpus.jsonl:7"):
            client.batch_search_sync(["explode"])
        assert client.batch_search_sync(["fine"])[0][0].title == "fine"


def test_one_query_that_fails_costs_no_neighbour():
    async def ask(url):
        client = SearchClient(url, top_k=1, retry_budget_s=0)
        return await asyncio.gather(*(client.search(query) for query in [*"abcdefgh", "explode", *"ijklmnop"]), return_exceptions=True)

    index = FakeIndex(delay_s=0.05)
    with serving(index) as (url, _):
        found = asyncio.run(ask(url))
    assert max(map(len, index.batches)) > 1
    assert [isinstance(result, Exception) for result in found] == [False] * 8 + [True] + [False] * 8


def test_half_a_character_is_replaced_where_it_enters(dense_directory):
    with serving(load_index(dense_directory)) as (url, _), httpx.Client(base_url=url) as http_client:
        for path, query in (("/search", '"king \\ud800"'), ("/batch_search", '["king \\ud800", "queen"]')):
            answer = http_client.post(path, content=f'{{"query": {query}}}', headers={"content-type": "application/json"})
            assert answer.status_code == 200 and answer.json()
        assert len(asyncio.run(SearchClient(url, top_k=2).search("king \ud800"))) == 2
    with scripted((200, '[[{"id": "1", "contents": "cut \\ud83d"}]]')) as (url, _):
        assert SearchClient(url).batch_search_sync(["q"])[0][0].contents == "cut \ufffd"


@pytest.mark.parametrize(("body", "status"), [
    ('{"query": "a", "top_n": NaN}', 422), ('{"query": "a", "top_n": Infinity}', 422), ('{"query": "a", "top_n": 1e400}', 422),
    ('{"query": NaN}', 422), ('{"query": ["\\ud800", 1e400]}', 422), ('{"query": ' + "[" * 100_000, 400)],
    ids=["nan", "infinity", "1e400", "query", "list", "deep"])
def test_odd_json_is_refused(body, status):
    with serving(FakeIndex()) as (url, _):
        for path in ("/search", "/batch_search"):
            answer = httpx.post(f"{url}{path}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status and "detail" in answer.json()


def start_server(directory: Path, *options: str, **popen) -> subprocess.Popen:
    command = [sys.executable, "-m", "tir.retrieval.server", "--index", str(directory), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, **popen)


def test_server_process(bm25_directory, tmp_path):
    """Endpoint file once ready; a clean end on SIGTERM; a taken port is one paragraph."""
    endpoint_file = tmp_path / "endpoint.json"
    server = start_server(bm25_directory, "--port", "0", "--endpoint-file", str(endpoint_file))
    assert wait_until(endpoint_file.exists, 20)
    endpoint = json.loads(endpoint_file.read_text())
    assert endpoint["pid"] == server.pid and endpoint["host"] == "127.0.0.1"
    assert endpoint["index"] == load_index(bm25_directory).digest
    assert len(SearchClient(endpoint_file, top_k=3).batch_search_sync(["king"])[0]) == 3
    second = start_server(bm25_directory, "--port", str(endpoint["port"]))
    message = second.communicate(timeout=30)[1]
    assert second.returncode == 1 and "port taken" in message and "--port 0" in message and "Traceback" not in message
    answers, sent = [], threading.Semaphore(0)

    def ask(part: int) -> None:
        def trace(event, _):
            if event == "http11.send_request_body.complete":
                sent.release()

        body = {"query": [f"{part} king {number}" for number in range(4000)], "top_n": 3}
        with httpx.Client(timeout=60) as client:
            answers.append(client.post(f"http://127.0.0.1:{endpoint['port']}/batch_search", json=body, extensions={"trace": trace}))

    asking = [threading.Thread(target=ask, args=(part,)) for part in range(3)]
    for thread in asking:
        thread.start()
    assert all(sent.acquire(timeout=30) for _ in asking) and not answers  # all three are in flight
    server.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert [len(answer.json()) for answer in answers] == [4000] * 3
    assert server.wait(15) == 0
    assert not endpoint_file.exists()
    server.stderr.close()


@pytest.mark.parametrize(("options", "words"), [
    (("--port", "80000"), "no such port.*65535"), (("--host", "300.1.1.1"), "no such address.*--host"),
    (("--host", "192.0.2.1"), "cannot bind.*address of this machine"),
])
def test_an_address_that_cannot_be_served_is_named(bm25_directory, options, words):
    server = start_server(bm25_directory, *options)
    message = server.communicate(timeout=30)[1]
    assert server.returncode == 1 and re.search(words, message, re.DOTALL) and "Traceback" not in message


def test_a_token_of_any_characters():
    with serving(FakeIndex(), token="schlüssel") as (url, _):
        assert len(asyncio.run(SearchClient(url, top_k=2, token="schlüssel").search("q"))) == 2
        with pytest.raises(SearchUnavailable, match="401"):
            asyncio.run(SearchClient(url, top_k=2, token="schlussel").search("q"))


def test_the_smoke_rule_needs_an_answer_to_every_question(tmp_path):
    full, none = GOOD, "[[]]"
    with scripted((200, full), (200, full), (200, full)) as (url, _):
        smoke(url, tmp_path / "smoke.csv", top_k=2)
    rows = list(csv.DictReader(open(tmp_path / "smoke.csv")))
    assert [row["title_1"] for row in rows] == ["T"] * 3 and [row["title_2"] for row in rows] == [""] * 3
    assert [row["question"] for row in rows] == list(QUESTIONS) and all(float(row["latency_ms"]) > 0 for row in rows)
    with scripted((200, full), (200, none), (200, full)) as (url, _):
        with pytest.raises(SearchUnavailable, match="no passage for: What year did the Eiffel"):
            smoke(url, tmp_path / "other.csv", top_k=2)
    assert not (tmp_path / "other.csv").exists()


# --- client -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*answers: tuple[int, str]):
    """An HTTP server that gives these answers in turn, the last one for ever; yields its URL and a counter."""
    count = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, body = answers[min(count[0], len(answers) - 1)]
            count[0] += 1
            if status == 0:
                time.sleep(1.0)
            self.send_response(status or 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", count
    finally:
        server.shutdown()
        server.server_close()


GOOD = '[[{"id": "1", "contents": "\\"T\\"\\nx"}]]'


@pytest.mark.parametrize("answer", [
    (200, "not json"), (200, "null"), (200, "{}"), (200, "[]"), (200, "[[], []]"), (200, '[[{"id": "1"}]]'),
    (200, '[["text"]]'), (200, '[[{"id": "1", "contents": null}]]'), (200, "[" + GOOD[1:-1] + "," + GOOD[1:-1] + "]"),
    (200, "[{}]"), (200, '[""]'), (200, '""'), (200, "[" * 100_000), (200, '{"detail": []}'), (503, "busy"), (500, "")])
def test_malformed_answers_are_faults(answer):
    with scripted(answer) as (url, count):
        if answer[1] != "[]":  # of one search, no passage: a server of words may find none
            with pytest.raises(SearchUnavailable, match=re.escape(url)):
                asyncio.run(SearchClient(url, top_k=2, retry_budget_s=0.2).search("q"))
        with pytest.raises(SearchUnavailable, match=re.escape(url)):
            SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search_sync(["q"])
        with pytest.raises(SearchUnavailable):
            asyncio.run(SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search(["q"]))
        assert count[0] >= 2


def test_passing_faults_are_retried():
    with scripted((503, "busy"), (200, "torn"), (200, GOOD)) as (url, count):
        assert SearchClient(url, retry_budget_s=20).batch_search_sync(["q"])[0][0].title == "T"
        assert count[0] == 3
    with scripted((422, "bad")) as (url, count):
        with pytest.raises(SearchUnavailable, match="422"):
            SearchClient(url).batch_search_sync(["q"])
        assert count[0] == 1
    with scripted((0, GOOD)) as (url, _), pytest.raises(SearchUnavailable, match="Timeout"):
        SearchClient(url, timeout_s=0.2, retry_budget_s=0.3).batch_search_sync(["q"])


@pytest.mark.parametrize("head", [True, False], ids=["body", "headers"])
def test_a_server_that_drips_is_not_waited_for(head):
    with dripping(head) as url:
        client, started = SearchClient(url, timeout_s=0.5, retry_budget_s=0.3), time.monotonic()
        with pytest.raises(SearchUnavailable, match="Timeout: no whole answer in 0.5 s"):
            asyncio.run(client.search("q"))
        if head:
            with pytest.raises(SearchUnavailable, match="Timeout: no whole answer"):
                client.batch_search_sync(["q"])
            with pytest.raises(SearchUnavailable, match="TimeoutError"):
                asyncio.run(client.health())
        assert time.monotonic() - started < 4


def test_nobody_there_is_a_fault_within_the_budget():
    url = "http://127.0.0.1:9"
    started = time.monotonic()
    with pytest.raises(SearchUnavailable, match="ConnectError"):
        asyncio.run(SearchClient(url, retry_budget_s=1.0).search("q"))
    assert 0.5 < time.monotonic() - started < 6
    with pytest.raises(SearchUnavailable):
        asyncio.run(SearchClient(url).health())
    mark_fault(url, "gone for good")
    try:
        started = time.monotonic()
        with pytest.raises(SearchUnavailable, match="gone for good"):
            SearchClient(url).batch_search_sync(["q"])
        assert time.monotonic() - started < 0.5
    finally:
        mark_fault(url, None)
    assert not client_module._faults


def test_client_in_many_loops():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=2)
        for _ in range(3):
            assert len(asyncio.run(client.search("a"))) == 2
        found = asyncio.run(client.batch_search(["a", "b"]))
        assert [rows[0].title for rows in found] == ["a", "b"] and found[0][0].score is None
        assert join_contents(found[0]) == '"a"\nrank 0\n\n"a"\nrank 1'
        assert asyncio.run(client.batch_search([])) == [] == client.batch_search_sync([])
        assert asyncio.run(client.health())["index"] == "0123456789abcdef"
        with pytest.raises(ValueError, match="blank"):
            asyncio.run(client.search("  "))


def test_endpoints(tmp_path):
    (tmp_path / "endpoint.json").write_text('{"host": "::1", "port": 7}')
    assert resolve_endpoint(tmp_path / "endpoint.json") == "http://[::1]:7"
    assert resolve_endpoint("node7:1243") == "http://node7:1243" and resolve_endpoint("https://x.org/") == "https://x.org"
    with pytest.raises(SearchUnavailable, match="no endpoint file"):
        resolve_endpoint(tmp_path / "later.json")
