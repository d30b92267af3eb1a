"""The retrieval server (FlashRAG's wire format, batching, shutdown) and its client (retries, typed errors)."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from support.fake_services import dripping
from support.paths import ROOT
from support.processes import wait_until
from support.tiny_retrieval import (  # noqa: F401  (fixtures)
    FakeIndex,
    bm25_directory,
    corpus,
    dense_directory,
    model_directory,
    serving,
)

from tir.common.errors import SearchUnavailable, WrongIndex
from tir.retrieval import files
from tir.retrieval import server as server_module
from tir.retrieval.batching import MicroBatcher, ResultCache
from tir.retrieval.client import SearchClient, resolve_endpoint
from tir.retrieval.folder import Address, Folder
from tir.retrieval.index import load_index
from tir.retrieval.passage import render_passages
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
        # As in FlashRAG, a blank query is allowed in a batch but refused as a single query.
        assert len(http_client.post("/batch_search", json={"query": ["a", ""]}).json()) == 2
        for body in ({}, {"query": 3}, {"query": "a", "top_n": 0}, {"query": ["a"]}):
            assert http_client.post("/search", json=body).status_code == 422
        assert http_client.get("/search").status_code == 405


def test_retrieve_speaks_search_r1s_format():
    """The request and the reading of the answer are those of Search-R1's client (search_r1/llm_agent/generation.py)."""
    with serving(FakeIndex()) as (url, _):
        payload = {"queries": ["a", "b"], "topk": 2, "return_scores": True}
        results = httpx.post(f"{url}/retrieve", json=payload).json()["result"]
        assert [[item["document"]["contents"] for item in result] for result in results] == [
            [f'"{query}"\nrank {rank}' for rank in range(2)] for query in "ab"
        ]
        assert [[item["score"] for item in result] for result in results] == [[1.0, 0.9]] * 2
        answer = httpx.post(f"{url}/retrieve", json={"queries": ["a"]})
        [documents] = answer.json()["result"]  # without scores, the documents themselves; three by default
        assert documents == [{"id": str(rank), "contents": f'"a"\nrank {rank}'} for rank in range(3)]
        assert answer.headers["x-index-digest"] == "0123456789abcdef"
        assert httpx.post(f"{url}/retrieve", json={"queries": [], "topk": None}).json() == {"result": []}
        failed = httpx.post(f"{url}/retrieve", json={"queries": ["explode"]})
        assert failed.status_code == 500 and "corpus.jsonl:7" in failed.json()["detail"]
    with serving(FakeIndex(), token="secret") as (url, _):
        assert httpx.post(f"{url}/retrieve", json={"queries": ["a"]}).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/retrieve", {"query": ["a"]}, "unknown field `query`: did you mean `queries`?"),
        ("/retrieve", {"queries": ["a"], "top_k": 5}, "unknown field `top_k`: did you mean `topk`?"),
        ("/retrieve", {"queries": ["a"], "return_score": True}, "did you mean `return_scores`?"),
        ("/search", {"queries": "a"}, "unknown field `queries`: did you mean `query`?"),
        ("/batch_search", {"query": ["a"], "topk": 5}, "unknown field `topk`: did you mean `top_n`?"),
        ("/batch_search", {"query": ["a"], "zzz": 5}, "the fields are query, top_n, return_score"),
        ("/retrieve", {"queries": "a"}, "valid list"),
        ("/retrieve", {"queries": ["a"], "topk": 1001}, "less than or equal to 1000"),
        ("/retrieve", {"queries": ["a"] * 4097}, "at most 4096 items"),
        ("/retrieve", {"queries": ["a"] * 4096, "topk": 11}, "send at most 3,723 queries at a time"),
        ("/batch_search", {"query": ["a"] * 41, "top_n": 1000}, "send at most 40 queries at a time"),
    ],
)
def test_a_request_that_is_misspelt_or_too_large_is_refused_with_the_right_words(path, body, says):
    with serving(index := FakeIndex()) as (url, _):
        answer = httpx.post(f"{url}{path}", json=body)
        assert answer.status_code == 422 and says in str(answer.json()["detail"]) and not index.batches


def test_a_call_with_many_queries_does_not_hold_up_the_others():
    """16 batches of the large call wait; a query that comes later is in the next batch but one, not in the last."""
    index = FakeIndex(delay_s=0.02)

    async def search_both() -> tuple[int, int]:
        batcher = MicroBatcher(index)
        batcher.start()
        large = asyncio.create_task(batcher.search([f"large {number}" for number in range(4096)], 10))
        while not index.batches:
            await asyncio.sleep(0.001)
        begun = len(index.batches)
        await batcher.search(["small"], 10)
        assert len(await large) == 4096
        await batcher.stop()
        return begun, next(number for number, batch in enumerate(index.batches) if "small" in batch)

    begun, found_in = asyncio.run(search_both())
    assert found_in <= begun < 3 and len(index.batches) == 17


def test_a_batch_has_fewer_queries_where_results_are_long():
    index = FakeIndex()
    with serving(index) as (url, _), httpx.Client(base_url=url, timeout=60) as http_client:
        for count, passages in ((40, 1000), (400, 100)):
            index.batches.clear()
            body = {"query": [f"q{number}" for number in range(count)], "top_n": passages}
            assert [len(each) for each in http_client.post("/batch_search", json=body).json()] == [passages] * count
            assert max(map(len, index.batches)) == 25_600 // passages


@pytest.mark.parametrize("change", ["edited", "replaced", "removed", "manifest", "touched"])
def test_health_and_searches_fail_after_the_index_was_changed_in_place(bm25_directory, tmp_path, monkeypatch, change):
    monkeypatch.setattr(files, "LOOK_EVERY_S", 0.0)
    index = tmp_path / "index"
    shutil.copytree(bm25_directory, index)
    watch, corpus, manifest = files.Watch(index), index / "corpus.jsonl", index / "manifest.json"
    with serving(load_index(index), changed=watch.changed) as (url, _), httpx.Client(base_url=url) as http_client:
        assert http_client.get("/health").status_code == 200
        if change == "edited":  # same size
            corpus.write_bytes(corpus.read_bytes().swapcase())
        elif change == "replaced":
            shutil.copytree(index, tmp_path / "new")
            shutil.rmtree(index)
            (tmp_path / "new").rename(index)
        elif change == "removed":
            corpus.unlink()
        elif change == "manifest":
            manifest.write_text(manifest.read_text() + " ")
        else:
            os.utime(manifest)  # as `snakemake --touch`
        health = http_client.get("/health")
        searches = [http_client.post("/search", json={"query": "king"}).status_code for _ in range(2)]
        if change == "touched":
            assert health.json()["status"] == "healthy" and searches == [200, 200]
            return
        assert health.status_code == 503 and searches == [503, 503]
        assert health.json()["status"] == "unhealthy" and health.json()["retrievers"]["available"] == 0
        with pytest.raises(SearchUnavailable, match="has changed since the index was loaded"):
            SearchClient(url, retry_budget_s=0.2).batch_search_sync(["king"])


def test_token():
    with serving(FakeIndex(), token="secret") as (url, _):
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.post(f"{url}/search", json={"query": "a"}).status_code == 401
        wrong = {"authorization": "Bearer wrong"}
        assert httpx.post(f"{url}/search", json={"query": "a"}, headers=wrong).status_code == 401
        assert len(SearchClient(url, top_k=2, token="secret").batch_search_sync(["a"])[0]) == 2
        with pytest.raises(SearchUnavailable, match="401"):  # not retried
            SearchClient(url).batch_search_sync(["a"])


def test_micro_batching_shares_searches():
    index = FakeIndex(delay_s=0.05)

    async def ask(url):
        clients = [SearchClient(url, top_k=1 + number % 5) for number in range(8)]
        results = await asyncio.gather(*(clients[number % 8].search(f"query {number % 50}") for number in range(200)))
        for number, passages in enumerate(results):
            assert len(passages) == 1 + number % 8 % 5
            assert all(passage.title == f"query {number % 50}" for passage in passages)

    with serving(index, max_batch=64) as (url, _):
        asyncio.run(ask(url))
    assert len(index.batches) <= 8  # for 200 requests
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

        def ask(query: str, top_n: int) -> list:
            return http_client.post("/search", json={"query": query, "top_n": top_n}).json()

        first = ask("a", 5)
        assert ask("a", 3) == first[:3] and index.batches == [["a"]]
        assert len(ask("a", 8)) == 8 and index.batches == [["a"], ["a"]]  # more passages than cached
        ask("b", 1), ask("c", 1), ask("b", 1)
        assert len(index.batches) == 4
        ask("a", 1)  # evicted by b and c
        assert len(index.batches) == 5
    index.batches.clear()
    with serving(index) as (url, _), httpx.Client(base_url=url) as http_client:
        for top_n in (101, 101):
            assert len(http_client.post("/search", json={"query": "a", "top_n": top_n}).json()) == 101
        assert len(index.batches) == 2  # results of more than 100 passages are not cached
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


def test_cached_results_do_not_grow_with_larger_queries_of_the_same_batch():
    async def search_both():
        batcher = MicroBatcher(FakeIndex(), window_s=0.05)
        batcher._threshold = batcher._last_batch_size = 2
        batcher.start()
        small, large = await asyncio.gather(batcher.search(["a"], 2), batcher.search(["b"], 50))
        assert len(small[0]) == 2 and len(large[0]) == 50
        assert batcher.cache.get("a", batcher.index.digest, 3) is None
        assert len(batcher.cache.get("b", batcher.index.digest, 50)) == 50
        await batcher.stop()

    asyncio.run(search_both())


def test_shutdown_answers_requests_in_flight():
    index = FakeIndex(delay_s=1.5)
    with serving(index) as (url, server):
        answers = []

        def ask(number: int) -> None:
            answers.append(httpx.post(f"{url}/search", json={"query": f"q{number}"}).status_code)

        searching = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in searching:
            thread.start()
        batcher = server.config.app.state.batcher
        assert wait_until(lambda: sum(map(len, index.batches)) + batcher._waiting == 4, 20)
        assert len(answers) < 4
        server.should_exit = True
        for thread in searching:
            thread.join()
        assert answers == [200] * 4


def test_sigterm_answers_requests_that_are_not_read_yet(bm25_directory, tmp_path):
    """The requests arrive while the server is stopped by SIGSTOP, so the kernel holds them when SIGTERM arrives."""
    endpoint_file = tmp_path / "endpoint.json"
    server = start_server(bm25_directory, "--port", "0", "--endpoint-file", str(endpoint_file))
    assert wait_until(endpoint_file.exists, 30)
    endpoint, body = json.loads(endpoint_file.read_text()), b'{"query": "king", "top_n": 1}'
    server.send_signal(signal.SIGSTOP)
    connections = [socket.create_connection((endpoint["host"], endpoint["port"])) for _ in range(60)]
    for connection in connections:
        connection.settimeout(20)
        connection.sendall(
            b"POST /search HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    for connection in connections:
        with connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.wait(15) == 0
    server.stderr.close()


def test_error_of_the_index_is_a_fault_and_the_server_continues():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=1, retry_budget_s=0.3)
        with pytest.raises(SearchUnavailable, match="corpus.jsonl:7"):
            client.batch_search_sync(["explode"])
        assert client.batch_search_sync(["fine"])[0][0].title == "fine"


def test_failing_query_does_not_fail_its_batch():
    async def ask(url):
        client = SearchClient(url, top_k=1, retry_budget_s=0)
        return await asyncio.gather(
            *(client.search(query) for query in [*"abcdefgh", "explode", *"ijklmnop"]), return_exceptions=True
        )

    index = FakeIndex(delay_s=0.05)
    with serving(index) as (url, _):
        results = asyncio.run(ask(url))
    assert max(map(len, index.batches)) > 1
    assert [isinstance(result, Exception) for result in results] == [False] * 8 + [True] + [False] * 8


def test_lone_surrogates_are_replaced(dense_directory):
    with serving(load_index(dense_directory)) as (url, _), httpx.Client(base_url=url) as http_client:
        for path, query in (("/search", '"king \\ud800"'), ("/batch_search", '["king \\ud800", "queen"]')):
            answer = http_client.post(
                path, content=f'{{"query": {query}}}', headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200 and answer.json()
        assert len(asyncio.run(SearchClient(url, top_k=2).search("king \ud800"))) == 2
    with scripted((200, '[[{"id": "1", "contents": "cut \\ud83d"}]]')) as (url, _):
        assert SearchClient(url).batch_search_sync(["q"])[0][0].contents == "cut \ufffd"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"query": "a", "top_n": NaN}', 422),
        ('{"query": "a", "top_n": Infinity}', 422),
        ('{"query": "a", "top_n": 1e400}', 422),
        ('{"query": NaN}', 422),
        ('{"query": ["\\ud800", 1e400]}', 422),
        ('{"query": "a", "\\ud800": 1}', 422),
        ('{"query": ' + "[" * 100_000, 400),
    ],
    ids=["nan", "infinity", "1e400", "query", "list", "field", "deep"],
)
def test_invalid_json_is_refused(body, status):
    with serving(FakeIndex()) as (url, _):
        for path in ("/search", "/batch_search"):
            answer = httpx.post(f"{url}{path}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status and "detail" in answer.json()


def start_server(directory: Path, *options: str, **popen) -> subprocess.Popen:
    command = [sys.executable, "-m", "tir.retrieval.server", "--index", str(directory), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, **popen)


def test_server_process(bm25_directory, tmp_path):
    """The endpoint file exists while the server is ready; SIGTERM ends it cleanly; a taken port is a short error."""
    endpoint_file = tmp_path / "endpoint.json"
    server = start_server(bm25_directory, "--port", "0", "--endpoint-file", str(endpoint_file), "--new-token")
    assert wait_until(endpoint_file.exists, 20)
    endpoint = json.loads(endpoint_file.read_text())
    assert endpoint["pid"] == server.pid and endpoint["host"] == "127.0.0.1"
    assert endpoint["index"] == load_index(bm25_directory).digest
    assert endpoint["token"] and endpoint_file.stat().st_mode & 0o777 == 0o600
    assert httpx.post(f"http://127.0.0.1:{endpoint['port']}/search", json={"query": "king"}).status_code == 401
    assert len(SearchClient(endpoint_file, top_k=3).batch_search_sync(["king"])[0]) == 3
    second = start_server(bm25_directory, "--port", str(endpoint["port"]))
    message = second.communicate(timeout=30)[1]
    assert second.returncode == 1 and "port taken" in message and "--port 0" in message and "Traceback" not in message
    answers, sent = [], threading.Semaphore(0)

    def ask(client_number: int) -> None:
        def trace(event, _):
            if event == "http11.send_request_body.complete":
                sent.release()

        body = {"query": [f"{client_number} king {number}" for number in range(1500)], "top_n": 3}
        with httpx.Client(timeout=60, headers={"authorization": f"Bearer {endpoint['token']}"}) as client:
            answers.append(
                client.post(f"http://127.0.0.1:{endpoint['port']}/batch_search", json=body, extensions={"trace": trace})
            )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert all(sent.acquire(timeout=30) for _ in threads) and not answers  # all three are in flight
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [len(answer.json()) for answer in answers] == [1500] * 3
    assert server.wait(15) == 0
    assert not endpoint_file.exists()
    server.stderr.close()


def test_a_server_that_ends_leaves_the_endpoint_file_of_another_one(bm25_directory, tmp_path):
    endpoint_file = tmp_path / "endpoint.json"
    options = ("--port", "0", "--endpoint-file", str(endpoint_file))
    servers = []
    for _ in range(2):
        servers.append(start_server(bm25_directory, *options))
        own = f'"pid": {servers[-1].pid}'
        assert wait_until(lambda: endpoint_file.exists() and own in endpoint_file.read_text(), 60)
    for server, left in zip(servers, (True, False), strict=True):
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=15)
        assert endpoint_file.exists() == left


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--idle-s", "0.1"), "no search for 0.1 s"), (("--alive", "nowhere"), "nowhere has not changed")],
)
def test_a_server_that_nobody_needs_ends_by_itself(bm25_directory, tmp_path, options, words):
    endpoint_file = tmp_path / "endpoint.json"
    program = "from tir.retrieval import folder, server; folder.BEAT_LOST_S = server.BEAT_LOST_S = 0.1; server.main()"
    command = [sys.executable, "-c", program, "--index", str(bm25_directory), "--port", "0", *options]
    done = subprocess.run(
        [*command, "--endpoint-file", str(endpoint_file)], cwd=ROOT, text=True, stderr=subprocess.PIPE, timeout=60
    )
    assert done.returncode == 0 and words in done.stderr and "ready after" in done.stderr
    assert not endpoint_file.exists()


def test_reading_ahead_reads_all_and_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(server_module, "PROGRESS_EVERY_S", -1)
    files = [tmp_path / "codes-00000.safetensors", tmp_path / "codes-00001.safetensors"]
    for file in files:
        file.touch()
        os.truncate(file, 50_000_000)
    server_module.read_ahead(files)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * 6 and "read 0.0 of 0.1 GB" in lines[0] and "read 0.1 of 0.1 GB" in lines[-1]


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (("--port", "80000"), "invalid port.*65535"),
        (("--host", "300.1.1.1"), "invalid address.*--host"),
        (("--host", "192.0.2.1"), "cannot listen on this address.*address of this machine"),
    ],
)
def test_invalid_addresses_are_short_errors(bm25_directory, options, pattern):
    server = start_server(bm25_directory, *options)
    message = server.communicate(timeout=30)[1]
    assert server.returncode == 1 and re.search(pattern, message, re.DOTALL) and "Traceback" not in message


def test_token_may_contain_any_characters():
    with serving(FakeIndex(), token="schlüssel") as (url, _):
        assert len(asyncio.run(SearchClient(url, top_k=2, token="schlüssel").search("q"))) == 2
        with pytest.raises(SearchUnavailable, match="401"):
            asyncio.run(SearchClient(url, top_k=2, token="schlussel").search("q"))


def test_smoke_rule_needs_a_passage_for_every_question(tmp_path):
    with scripted((200, GOOD), (200, GOOD), (200, GOOD)) as (url, _):
        smoke(url, tmp_path / "smoke.csv", top_k=2)
    rows = list(csv.DictReader(open(tmp_path / "smoke.csv")))
    assert [row["title_1"] for row in rows] == ["T"] * 3 and [row["title_2"] for row in rows] == [""] * 3
    assert [row["question"] for row in rows] == list(QUESTIONS) and all(float(row["latency_ms"]) > 0 for row in rows)
    with scripted((200, GOOD), (200, "[[]]"), (200, GOOD)) as (url, _):
        with pytest.raises(SearchUnavailable, match="no passage for: What year did the Eiffel"):
            smoke(url, tmp_path / "other.csv", top_k=2)
    assert not (tmp_path / "other.csv").exists()


# --- client -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*answers: tuple[int, str]):
    """An HTTP server that returns the given answers in order and repeats the last; yields its URL and a counter."""
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


@pytest.mark.parametrize(
    "answer",
    [
        (200, "not json"),
        (200, "null"),
        (200, "{}"),
        (200, "[]"),
        (200, "[[], []]"),
        (200, '[[{"id": "1"}]]'),
        (200, '[["text"]]'),
        (200, '[[{"id": "1", "contents": null}]]'),
        (200, "[" + GOOD[1:-1] + "," + GOOD[1:-1] + "]"),
        (200, "[{}]"),
        (200, '[""]'),
        (200, '""'),
        (200, "[" * 100_000),
        (200, '{"detail": []}'),
        (503, "busy"),
        (500, ""),
    ],
)
def test_malformed_answers_are_faults(answer):
    with scripted(answer) as (url, count):
        if answer[1] != "[]":  # for a single query this is a valid answer: BM25 may find no passage
            with pytest.raises(SearchUnavailable, match=re.escape(url)):
                asyncio.run(SearchClient(url, top_k=2, retry_budget_s=0.2).search("q"))
        with pytest.raises(SearchUnavailable, match=re.escape(url)):
            SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search_sync(["q"])
        with pytest.raises(SearchUnavailable):
            asyncio.run(SearchClient(url, top_k=2, retry_budget_s=0.2).batch_search(["q"]))
        assert count[0] >= 2


def test_transient_faults_are_retried():
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
def test_timeout_covers_the_whole_answer_of_a_slow_server(head):
    with dripping(head) as url:
        client, started = SearchClient(url, timeout_s=0.5, retry_budget_s=0.3), time.monotonic()
        with pytest.raises(SearchUnavailable, match="Timeout: no whole answer in 0.5 s"):
            asyncio.run(client.search("q"))
        with pytest.raises(SearchUnavailable, match="Timeout: no whole answer"):
            client.batch_search_sync(["q"])
        assert time.monotonic() - started < 4


def test_unreachable_server_is_a_fault_within_the_budget():
    url = "http://127.0.0.1:9"
    started = time.monotonic()
    with pytest.raises(SearchUnavailable, match="ConnectError"):
        asyncio.run(SearchClient(url, retry_budget_s=1.0).search("q"))
    assert time.monotonic() - started < 6


def test_a_server_with_another_index_is_never_believed(tmp_path):
    """Also a server that does not state its index."""
    with serving(FakeIndex(digest="another")) as (url, _), scripted((200, GOOD)) as (silent_url, count):
        for each, found in ((url, "another"), (silent_url, "not stated")):
            Folder(tmp_path).publish(Address(each, index="0123456789abcdef"))
            with pytest.raises(WrongIndex, match=f"job's index is 0123456789abcdef, the server's is {found}"):
                SearchClient(tmp_path, top_k=1).batch_search_sync(["q"])
        assert count[0] == 1  # not retried
        Folder(tmp_path).publish(Address(url, index="another"))
        assert SearchClient(tmp_path, top_k=1).batch_search_sync(["q"])[0][0].title == "q"


def test_a_server_that_is_swapped_for_one_with_another_index_is_noticed_by_all_clients(tmp_path):
    """Also by a client that was given no index: all its answers come from the index of the first."""
    with serving(FakeIndex()) as (url, _):
        Folder(tmp_path).publish(Address(url, index="0123456789abcdef"))
        clients = SearchClient(tmp_path, top_k=1), SearchClient(url, top_k=1)
        assert all(client.batch_search_sync(["q"])[0][0].title == "q" for client in clients)
    with serving(FakeIndex(digest="another"), port=int(url.rpartition(":")[2])):
        for client in (*clients, *clients):
            with pytest.raises(WrongIndex, match="job's index is 0123456789abcdef, the server's is another"):
                client.batch_search_sync(["q"])


def test_a_dense_index_has_passages_for_every_query(tmp_path):
    """BM25 may find none. From a dense index, an empty list is a fault of the server, and no result."""
    folder = Folder(tmp_path)
    with scripted((200, "[]")) as (url, _), scripted((200, "[" + GOOD[1:-1] + ", []]")) as (batch_url, _):
        folder.publish(Address(url))
        assert asyncio.run(SearchClient(tmp_path).search("q")) == []
        for each, queries in ((url, "q"), (batch_url, ["p", "q"])):
            folder.publish(Address(each, dense=True))
            client = SearchClient(tmp_path, retry_budget_s=0.2)
            with pytest.raises(SearchUnavailable, match="no passage from a dense index"):
                asyncio.run(client.search(queries) if isinstance(queries, str) else client.batch_search(queries))


def test_a_failed_search_is_sent_to_the_server_that_replaces_a_lost_one(tmp_path):
    folder = Folder(tmp_path)
    folder.publish(Address("http://127.0.0.1:9"))
    client, found = SearchClient(tmp_path, top_k=1), []
    searching = threading.Thread(target=lambda: found.extend(client.batch_search_sync(["q"])[0]))
    searching.start()
    with serving(FakeIndex(), token="new") as (url, _):
        folder.withdraw()
        assert wait_until(folder.take_request, 20)  # the client asks for another one
        folder.publish(Address(url, token="new"))
        searching.join(20)
    assert found[0].title == "q"
    folder.withdraw()
    folder.refuse("no more restarts")
    with pytest.raises(SearchUnavailable, match="no more restarts"):
        SearchClient(tmp_path).batch_search_sync(["q"])


def test_client_in_several_event_loops():
    with serving(FakeIndex()) as (url, _):
        client = SearchClient(url, top_k=2)
        for _ in range(3):
            assert len(asyncio.run(client.search("a"))) == 2
        results = asyncio.run(client.batch_search(["a", "b"]))
        assert [passages[0].title for passages in results] == ["a", "b"] and results[0][0].score is None
        assert render_passages(results[0]) == '"a"\nrank 0\n\n"a"\nrank 1'
        assert asyncio.run(client.batch_search([])) == [] == client.batch_search_sync([])

        async def in_a_notebook():
            return client.batch_search_sync(["a"])

        assert len(asyncio.run(in_a_notebook())[0]) == 2
        assert httpx.get(f"{url}/health").headers["x-index-digest"] == "0123456789abcdef"
        with pytest.raises(ValueError, match="blank"):
            asyncio.run(client.search("  "))


def test_endpoint_is_a_url_an_address_or_an_endpoint_file(tmp_path):
    (tmp_path / "endpoint.json").write_text('{"host": "::1", "port": 7, "token": "secret", "index": "abc"}')
    address = resolve_endpoint(tmp_path / "endpoint.json")
    assert address == Address("http://[::1]:7", "secret", "abc") and "secret" not in repr(address)
    assert resolve_endpoint("node7:1243").url == "http://node7:1243"
    assert resolve_endpoint("https://x.org/").url == "https://x.org"
    with pytest.raises(SearchUnavailable, match="no endpoint file"):
        resolve_endpoint(tmp_path / "missing.json")
