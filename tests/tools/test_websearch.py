"""Web search: conversion of Tavily's answers to Bing's format, typed errors, the cassette, secrecy of the key."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from support.fake_services import KEY, TOO_FAST, USED_UP, FakeService, dripping, slow, tavily, tavily_error
from support.shared_data import SHARED, needs_shared

from tir.common.errors import ConfigError, DataError, SearchUnavailable
from tir.common.records import canonical_json
from tir.config.tools import Tools
from tir.tools.registry import by_tag, make_tools
from tir.tools.web_search_tool import WebSearchTool, WebSearchToolConfig
from tir.tools.websearch.bing import pages, render_pages
from tir.tools.websearch.cassette import Cassette, CassetteSearch
from tir.tools.websearch.modes import make_web_search
from tir.tools.websearch.tavily import Tavily, as_bing

PARAMETERS = {"max_results": 3, "search_depth": "basic"}
GOOD = tavily("/search", {"authorization": f"Bearer {KEY}"}, {"query": "q", **PARAMETERS})


@pytest.fixture
def service():
    with FakeService(tavily).running() as running:
        yield running


def client(url, **changes) -> Tavily:
    options = {"url": getattr(url, "url", url), "timeout_s": 0.5, "retry_budget_s": 3.0, "concurrency": 8}
    return Tavily(SecretStr(KEY), PARAMETERS, **options | changes)


def find(search, *queries):
    """Answers to concurrent queries, in order."""

    async def search_all():
        return await asyncio.gather(*(search.search(query) for query in queries))

    return asyncio.run(search_all())


def settings(service, path, **changes) -> WebSearchToolConfig:
    keys = {
        "provider": "tavily",
        "mode": "record",
        "cassette": str(path),
        "top_k": 3,
        "depth": "basic",
        "layout": "titled",
        "output_chars": 8000,
        "timeout_s": 1.0,
        "retry_budget_s": 2.0,
        "concurrency": 2,
        "url": service.url,
        **changes,
    }
    return WebSearchToolConfig(**keys)


def test_answer_has_bings_format(service):
    answer = find(client(service), "who wrote Emma")[0]
    assert answer["webPages"]["value"][0] == {
        "name": "who wrote Emma 1",
        "url": "https://site1.example.org/page?q=1",
        "siteName": "site1.example.org",
        "datePublished": "2024-03-01T10:00:00Z",
        "snippet": "About <strong>who wrote Emma</strong> &amp; more, 1.",
    }
    results = pages(answer)
    assert [page.id for page in results] == [1, 2, 3] and results[0].date == "2024-03-01" and results[1].date == ""
    assert results[0].snippet == "About who wrote Emma & more, 1."
    assert render_pages(results[:2], "snippets") == "About who wrote Emma & more, 1.About who wrote Emma & more, 2."
    titled = render_pages(results[:2], "titled")
    assert titled.startswith("who wrote Emma 1\nAbout") and "\n\nwho wrote Emma 2\n" in titled
    assert pages({}) == [] and service.seen[0]["max_results"] == 3


def test_long_query_is_cut_at_the_services_limit(service):
    assert find(client(service), "x" * 900) and len(service.seen[0]["query"]) == 400


def test_client_waits_as_long_as_a_rate_limit_asks(service):
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "0.6"})]
    started = time.monotonic()
    assert find(client(service), "q") and 0.6 <= time.monotonic() - started < 3
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "3600"})]
    with pytest.raises(SearchUnavailable, match="429.*excessive requests"):  # an hour exceeds the retry budget
        find(client(service), "q")


def test_retry_after_zero_does_not_cause_a_flood_of_requests(service):
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "0"})] * 1000
    with pytest.raises(SearchUnavailable):
        find(client(service), "q")
    assert 2 <= len(service.seen) < 30


@pytest.mark.parametrize(
    "planned",
    [
        tavily_error(500, "Internal Server Error"),
        (502, {}, b"<html>Bad Gateway</html>"),
        (503, {}, b"[" * 100_000),
        (200, {}, b"[" * 100_000),
        (200, {}, b"{"),
        (200, {}, {"results": None}),
        (200, {}, {"results": [{"title": "a", "url": "u"}]}),
        (200, {}, []),
        slow(0.8, GOOD),
    ],
    ids=["500", "502", "deep fault", "deep", "cut", "null", "no content", "list", "slow"],
)
def test_transient_fault_is_retried(service, planned):
    service.plan = [planned]
    assert pages(find(client(service), "q")[0])[0].title == "q 1" and len(service.seen) == 2


@pytest.mark.parametrize(
    ("planned", "message"),
    [
        (tavily_error(500, "Internal Server Error"), "status 500"),
        ((200, {}, {"results": 3}), "malformed"),
        (slow(0.8, GOOD), "Timeout"),
    ],
    ids=["500", "malformed", "slow"],
)
def test_lasting_fault_raises_search_unavailable(service, planned, message):
    service.plan = [planned] * 50
    started = time.monotonic()
    with pytest.raises(SearchUnavailable, match=message):
        find(client(service, retry_budget_s=1.0), "q")
    assert time.monotonic() - started < 4 and len(service.seen) > 1


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        (401, "Unauthorized", "TAVILY_API_KEY"),
        (432, USED_UP, "plan"),
        (433, "pay as you go", "pay-as-you-go"),
        (400, "bad", "tools.web_search"),
    ],
)
def test_refusal_is_not_retried(service, status, text, remedy):
    service.plan = [tavily_error(status, text)]
    with pytest.raises(SearchUnavailable, match=remedy):
        find(client(service), "q")
    assert len(service.seen) == 1


def test_unreachable_service_raises_search_unavailable():
    with pytest.raises(SearchUnavailable, match="ConnectError"):
        find(client("http://127.0.0.1:9", retry_budget_s=0.5), "q")


def test_timeout_covers_the_whole_answer_of_a_slow_service():
    started = time.monotonic()
    with dripping() as url, pytest.raises(SearchUnavailable, match="Timeout: no whole answer in 0.5 s"):
        find(client(url, retry_budget_s=0.3), "q")
    assert time.monotonic() - started < 3


def test_requests_in_flight_stay_below_the_limit(service):
    service.plan = [slow(0.05, GOOD)] * 12
    find(client(service, concurrency=3), *"abcdefghijkl")
    assert service.max_in_flight <= 3


def test_cassette_replays_recorded_answers(service, tmp_path):
    path = tmp_path / "web.sqlite"
    with Cassette(path, create=True) as cassette:
        recording = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        live = find(recording, "who wrote Emma", " who  wrote\nEmma ", "who wrote Emma", "another")
        assert len(service.seen) == 2 and len(cassette) == 2  # concurrent equal queries share one request
    with Cassette(path) as cassette:
        assert find(CassetteSearch(cassette, "tavily", PARAMETERS), "who wrote Emma", "another") == [live[0], live[3]]
        for other in (
            CassetteSearch(cassette, "tavily", {**PARAMETERS, "max_results": 4}),
            CassetteSearch(cassette, "bing", PARAMETERS),
        ):
            with pytest.raises(DataError, match="mode: record"):
                find(other, "who wrote Emma")
    assert [file.name for file in tmp_path.iterdir()] == ["web.sqlite"]


def test_faults_are_not_recorded(service, tmp_path):
    service.plan = [tavily_error(500, "x")] * 50
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        with pytest.raises(SearchUnavailable):
            find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service, retry_budget_s=0.2)), "q")
        assert len(cassette) == 0


def test_missing_file_and_other_file_are_data_errors(tmp_path):
    (tmp_path / "other").write_text("not a database, but long enough to be read as one" * 20)
    for name, message in (("missing", "no cassette"), ("other", "cannot read or write the cassette")):
        with pytest.raises(DataError, match=message):
            Cassette(tmp_path / name)


@pytest.mark.parametrize(
    "answer", ["{oops", "[1]", '{"webPages": 3}', '{"webPages": {"value": [1]}}', "[" * 100_000, 7]
)
def test_damaged_answer_in_cassette_is_a_data_error(tmp_path, answer):
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        cassette._file.execute(
            "INSERT INTO answers VALUES ('q', 'tavily', ?, ?, 0)", (canonical_json(PARAMETERS), answer)
        )
        with pytest.raises(DataError, match="damaged answer.*'q'"):
            find(CassetteSearch(cassette, "tavily", PARAMETERS), "q")


def test_locked_cassette_raises_and_does_not_block_the_event_loop(service, tmp_path):
    async def search_and_measure_pauses(search, pauses):
        task = asyncio.create_task(search.search("q"))
        while not task.done():
            started = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - started)
        return await task

    path, pauses = tmp_path / "web.sqlite", []
    with Cassette(path, create=True) as cassette:
        search = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        cassette._file.execute("PRAGMA busy_timeout = 2000")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SearchUnavailable, match="cassette is locked"):
            asyncio.run(search_and_measure_pauses(search, pauses))
        other.execute("ROLLBACK")
        other.close()
        assert max(pauses) < 1.5 and len(pauses) > 10
        assert pages(find(search, "q")[0]) and len(cassette) == 1
    with pytest.raises(DataError, match="cannot read or write the cassette"):
        find(search, "q")


def test_missing_key_is_a_config_error(service, tmp_path, monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="export TAVILY_API_KEY"), make_web_search(settings(service, tmp_path / "c")):
        pass
    assert not service.seen


def test_web_search_answers_the_search_tag_of_its_route(service, tmp_path, monkeypatch):
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    tools = Tools(web_search=settings(service, tmp_path / "web.sqlite"), routes={"web": ["web_search"]})
    with make_tools(["web_search"], tools, None) as made:
        tool = by_tag(made, ["web_search"])["search"]
        assert isinstance(tool, WebSearchTool)
        result = asyncio.run(tool.call(" who wrote Emma "))
        assert result.status == "ok" and result.text.startswith("who wrote Emma 1\nAbout who wrote Emma")
        assert asyncio.run(tool.call(" ")).status == "error" and len(service.seen) == 1


@needs_shared
def test_recorded_webwalker_queries_are_answered_offline(service, tmp_path, monkeypatch):
    rows = [json.loads(line) for line in (SHARED / "benchmarks/webwalker.jsonl").read_text().splitlines()]
    questions = [row["question"] for row in rows]
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    with make_web_search(settings(service, tmp_path / "web.sqlite", concurrency=16, timeout_s=30.0)) as web:
        recorded = find(web, *questions)
    monkeypatch.delenv("TAVILY_API_KEY")
    monkeypatch.setattr(httpx.AsyncClient, "post", None)  # any request would now raise
    with make_web_search(settings(service, tmp_path / "web.sqlite", mode="replay")) as web:
        assert find(web, *questions) == recorded
    assert len(questions) == 200 and all(pages(answer) for answer in recorded)


@pytest.mark.parametrize("results", [{}, ""], ids=["mapping", "text"])
def test_malformed_answer_is_not_recorded_as_empty(service, tmp_path, results):
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        service.plan = [(200, {}, {"results": results})]
        assert pages(find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service)), "q")[0])
        service.plan = [(200, {}, {"results": results})] * 50
        with pytest.raises(SearchUnavailable, match="malformed"):
            find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service, retry_budget_s=0.2)), "other")
        assert len(cassette) == 1


def test_lone_surrogate_in_query_and_answer_is_replaced(service, tmp_path):
    cut = {"title": "a", "url": "u", "content": "cut \ud83d"}
    service.plan = [(200, {}, {"results": [cut]})]
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        search = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        for _ in range(2):
            assert pages(find(search, "half \ud800")[0])[0].snippet == "cut \ufffd"
    assert service.seen[0]["query"] == "half \ufffd" and len(service.seen) == 1


def test_results_with_missing_fields_or_odd_addresses_are_kept():
    good = {"title": "a", "url": "https://a.org/x", "content": "c"}
    odd = [{**good, "url": "http://[bad"}, {**good, "title": None}, {"url": "", "content": "c"}]
    results = pages(as_bing({"results": [good, *odd]}))
    assert [page.site_name for page in results] == ["a.org", "", "a.org", ""]
    assert [page.title for page in results] == ["a", "a", "", ""]


def test_malformed_answers_raise():
    for answer in (None, [], {}, {"results": [{"title": 1, "url": "u", "content": "c"}]}):
        with pytest.raises((KeyError, TypeError)):
            as_bing(answer)
    for results in ({}, "", {"a": 1}, None, [None], ["text"]):
        with pytest.raises(TypeError):
            as_bing({"results": results})
    assert as_bing({"results": []}) == {"webPages": {"value": []}}
    assert Path(__file__).read_text().count(KEY) == 0
