"""Web search: Bing's shape from Tavily's schema, typed faults, a cassette, and a key that shows nowhere."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from fake_services import KEY, TOO_FAST, USED_UP, FakeService, dripping, slow, tavily, tavily_error
from shared_data import SHARED, needs_shared

from tir.errors import ConfigError, DataError, SearchUnavailable
from tir.records import canonical_json
from tir.tools.registry import by_tag, make_tools
from tir.tools.web_search_tool import WebSearchTool
from tir.websearch.bing import pages, render_pages
from tir.websearch.cassette import Cassette, CassetteSearch
from tir.websearch.modes import make_web_search
from tir.websearch.tavily import Tavily, as_bing

PARAMETERS = {"max_results": 3, "search_depth": "basic"}
GOOD = tavily("/search", {"authorization": f"Bearer {KEY}"}, {"query": "q", **PARAMETERS})


@pytest.fixture
def service():
    with FakeService(tavily).running() as running:
        yield running


def client(service, **changes) -> Tavily:
    return Tavily(KEY, PARAMETERS, url=service.url, **{"timeout_s": 0.5, "retry_budget_s": 3.0, **changes})


def find(search, *queries):
    async def all_of_them():
        return await asyncio.gather(*(search.search(query) for query in queries))

    return asyncio.run(all_of_them())


def settings(service, path, **changes) -> dict:
    return {"provider": "tavily", "mode": "record", "cassette": str(path), "top_k": 3, "depth": "basic", "layout": "titled",
            "output_chars": 8000, "timeout_s": 1.0, "retry_budget_s": 2.0, "concurrency": 2, "url": service.url, **changes}


def test_an_answer_has_the_shape_of_bing(service):
    answer = find(client(service), "who wrote Emma")[0]
    assert answer["webPages"]["value"][0] == {
        "name": "who wrote Emma 1", "url": "https://site1.example.org/page?q=1", "siteName": "site1.example.org",
        "datePublished": "2024-03-01T10:00:00Z", "snippet": "About <strong>who wrote Emma</strong> &amp; more, 1."}
    found = pages(answer)
    assert [page.id for page in found] == [1, 2, 3] and found[0].date == "2024-03-01" and found[1].date == ""
    assert found[0].snippet == "About who wrote Emma & more, 1."
    assert render_pages(found[:2], "snippets") == "About who wrote Emma & more, 1.About who wrote Emma & more, 2."
    assert render_pages(found[:2], "titled").startswith("who wrote Emma 1\nAbout") and "\n\nwho wrote Emma 2\n" in \
        render_pages(found[:2], "titled")
    assert pages({}) == [] and service.seen[0]["max_results"] == 3


def test_a_query_longer_than_the_service_takes_is_cut(service):
    assert find(client(service), "x" * 900) and len(service.seen[0]["query"]) == 400


def test_a_rate_limit_is_waited_for_as_long_as_it_says(service):
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "0.6"})]
    started = time.monotonic()
    assert find(client(service), "q") and 0.6 <= time.monotonic() - started < 3
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "3600"})]
    with pytest.raises(SearchUnavailable, match="429.*excessive requests"):  # nobody waits beyond the budget
        find(client(service), "q")


def test_a_service_that_says_now_is_not_flooded(service):
    service.plan = [tavily_error(429, TOO_FAST, **{"Retry-After": "0"})] * 1000
    with pytest.raises(SearchUnavailable):
        find(client(service), "q")
    assert 2 <= len(service.seen) < 30


@pytest.mark.parametrize("planned", [
    tavily_error(500, "Internal Server Error"), (502, {}, b"<html>Bad Gateway</html>"), (503, {}, b"[" * 100_000),
    (200, {}, b"[" * 100_000), (200, {}, b"{"), (200, {}, {"results": None}),
    (200, {}, {"results": [{"title": "a", "url": "u"}]}), (200, {}, []), slow(0.8, GOOD),
], ids=["500", "502", "deep fault", "deep", "cut", "null", "no content", "list", "slow"])
def test_a_passing_fault_is_asked_again(service, planned):
    service.plan = [planned]
    assert pages(find(client(service), "q")[0])[0].title == "q 1" and len(service.seen) == 2


@pytest.mark.parametrize(("planned", "words"), [
    (tavily_error(500, "Internal Server Error"), "status 500"), ((200, {}, {"results": 3}), "malformed"), (slow(0.8, GOOD), "Timeout"),
], ids=["500", "malformed", "slow"])
def test_a_fault_that_stays_is_typed_and_never_an_empty_result(service, planned, words):
    service.plan = [planned] * 50
    started = time.monotonic()
    with pytest.raises(SearchUnavailable, match=words):
        find(client(service, retry_budget_s=1.0), "q")
    assert time.monotonic() - started < 4 and len(service.seen) > 1


@pytest.mark.parametrize(("status", "text", "remedy"), [(401, "Unauthorized", "TAVILY_API_KEY"), (432, USED_UP, "plan"),
                                                        (433, "pay as you go", "pay-as-you-go"), (400, "bad", "tools.web_search")])
def test_a_refusal_is_final(service, status, text, remedy):
    service.plan = [tavily_error(status, text)]
    with pytest.raises(SearchUnavailable, match=remedy):
        find(client(service), "q")
    assert len(service.seen) == 1


def test_nobody_there():
    with pytest.raises(SearchUnavailable, match="ConnectError"):
        find(Tavily(KEY, PARAMETERS, url="http://127.0.0.1:9", retry_budget_s=0.5), "q")


def test_a_service_that_drips_is_not_waited_for():
    started = time.monotonic()
    with dripping() as url, pytest.raises(SearchUnavailable, match="Timeout: no whole answer in 0.5 s"):
        find(Tavily(KEY, PARAMETERS, url=url, timeout_s=0.5, retry_budget_s=0.3), "q")
    assert time.monotonic() - started < 3


def test_no_more_requests_at_once_than_allowed(service):
    service.plan = [slow(0.05, GOOD)] * 12
    find(client(service, concurrency=3), *"abcdefghijkl")
    assert service.most_at_once <= 3


def test_the_cassette_replays_what_was_recorded(service, tmp_path):
    path = tmp_path / "web.sqlite"
    with Cassette(path, create=True) as cassette:
        recording = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        live = find(recording, "who wrote Emma", " who  wrote\nEmma ", "who wrote Emma", "another")
        assert len(service.seen) == 2 and len(cassette) == 2  # equal queries share one request, also at once
    with Cassette(path) as cassette:
        assert find(CassetteSearch(cassette, "tavily", PARAMETERS), "who wrote Emma", "another") == [live[0], live[3]]
        for other in (CassetteSearch(cassette, "tavily", {**PARAMETERS, "max_results": 4}), CassetteSearch(cassette, "bing", PARAMETERS)):
            with pytest.raises(DataError, match="mode: record"):
                find(other, "who wrote Emma")
    assert [file.name for file in tmp_path.iterdir()] == ["web.sqlite"]


def test_a_fault_is_not_recorded(service, tmp_path):
    service.plan = [tavily_error(500, "x")] * 50
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        with pytest.raises(SearchUnavailable):
            find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service, retry_budget_s=0.2)), "q")
        assert len(cassette) == 0


def test_a_cassette_that_is_absent_or_something_else_is_named(tmp_path):
    (tmp_path / "other").write_text("no database, but long enough to be looked at as one" * 20)
    for name, words in (("absent", "no cassette"), ("other", "not a cassette")):
        with pytest.raises(DataError, match=words):
            Cassette(tmp_path / name)


@pytest.mark.parametrize("answer", ["{oops", "[1]", '{"webPages": 3}', '{"webPages": {"value": [1]}}', "[" * 100_000, 7])
def test_a_damaged_answer_on_the_cassette_is_named(tmp_path, answer):
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        cassette._file.execute("INSERT INTO answers VALUES ('q', 'tavily', ?, ?, 0)", (canonical_json(PARAMETERS), answer))
        with pytest.raises(DataError, match="damaged answer.*'q'"):
            find(CassetteSearch(cassette, "tavily", PARAMETERS), "q")


def test_a_locked_cassette_is_a_fault_and_holds_up_nothing_else(service, tmp_path):
    async def ask(search, pauses):
        asking = asyncio.create_task(search.search("q"))
        while not asking.done():
            started = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - started)
        return await asking

    path, pauses = tmp_path / "web.sqlite", []
    with Cassette(path, create=True) as cassette:
        search = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        cassette._file.execute("PRAGMA busy_timeout = 2000")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SearchUnavailable, match="cassette is locked"):
            asyncio.run(ask(search, pauses))
        other.execute("ROLLBACK")
        other.close()
        assert max(pauses) < 1.5 and len(pauses) > 10
        assert pages(find(search, "q")[0]) and len(cassette) == 1
    with pytest.raises(DataError, match="cannot use the cassette"):
        find(search, "q")


def test_without_a_key_nothing_is_asked(service, tmp_path, monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="export TAVILY_API_KEY"), make_web_search(settings(service, tmp_path / "c")):
        pass
    assert not service.seen


def test_the_key_shows_nowhere(service, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    caplog.set_level("DEBUG")
    path, texts = tmp_path / "web.sqlite", []
    with make_web_search(settings(service, path)) as web:
        find(web, "q")
        for planned in (tavily_error(401, f"Unauthorized: {KEY}"), tavily_error(500, f"oops {KEY}"),
                        *(tavily_error(status, "x" * (200 - len(KEY) + cut) + KEY) for status in (401, 500) for cut in (1, 6, 20)), (200, {}, {"results": KEY})):
            service.plan = [planned] * 50
            with pytest.raises(SearchUnavailable) as caught:
                find(web, f"q{len(texts)}")
            texts += [str(caught.value), repr(caught.value)]
            service.plan = []
        texts += [repr(web), repr(web.provider), str(vars(web))]
    captured = capfd.readouterr()
    assert not any(KEY[:8] in text for text in texts)
    assert KEY not in "".join([*texts, captured.out, captured.err, caplog.text]) and KEY.encode() not in path.read_bytes()


def test_it_is_the_search_tool_of_a_route(service, tmp_path, monkeypatch):
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    tools = {"web_search": settings(service, tmp_path / "web.sqlite"), "routes": {"web": ["web_search"]}}
    with make_tools(["web_search"], tools, None) as made:
        tool = by_tag(made, ["web_search"])["search"]
        assert isinstance(tool, WebSearchTool)
        result = asyncio.run(tool.call(" who wrote Emma "))
        assert result.status == "ok" and result.text.startswith("who wrote Emma 1\nAbout who wrote Emma")
        assert asyncio.run(tool.call(" ")).status == "error" and len(service.seen) == 1


@needs_shared
def test_webwalker_is_answered_offline(service, tmp_path, monkeypatch):
    rows = [json.loads(line) for line in (SHARED / "benchmarks/webwalker.jsonl").read_text().splitlines()]
    questions = [row["question"] for row in rows]
    monkeypatch.setenv("TAVILY_API_KEY", KEY)
    with make_web_search(settings(service, tmp_path / "web.sqlite", concurrency=16)) as web:
        recorded = find(web, *questions)
    monkeypatch.delenv("TAVILY_API_KEY")
    monkeypatch.setattr(httpx.AsyncClient, "post", None)  # nothing may be sent
    with make_web_search(settings(service, tmp_path / "web.sqlite", mode="replay")) as web:
        assert find(web, *questions) == recorded
    assert len(questions) == 200 and all(pages(answer) for answer in recorded)


@pytest.mark.parametrize("results", [{}, ""], ids=["mapping", "text"])
def test_a_malformed_answer_is_not_recorded_as_an_empty_one(service, tmp_path, results):
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        service.plan = [(200, {}, {"results": results})]
        assert pages(find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service)), "q")[0])
        service.plan = [(200, {}, {"results": results})] * 50
        with pytest.raises(SearchUnavailable, match="malformed"):
            find(CassetteSearch(cassette, "tavily", PARAMETERS, client(service, retry_budget_s=0.2)), "other")
        assert len(cassette) == 1


def test_half_a_character_can_be_recorded_and_read(service, tmp_path):
    cut = {"title": "a", "url": "u", "content": "cut \ud83d"}
    service.plan = [(200, {}, {"results": [cut]})]
    with Cassette(tmp_path / "web.sqlite", create=True) as cassette:
        search = CassetteSearch(cassette, "tavily", PARAMETERS, client(service))
        for _ in range(2):
            assert pages(find(search, "half \ud800")[0])[0].snippet == "cut \ufffd"
    assert service.seen[0]["query"] == "half \ufffd" and len(service.seen) == 1


def test_one_odd_page_costs_no_other():
    good = {"title": "a", "url": "https://a.org/x", "content": "c"}
    odd = [{**good, "url": "http://[bad"}, {**good, "title": None}, {"url": "", "content": "c"}]
    found = pages(as_bing({"results": [good, *odd]}))
    assert [page.site_name for page in found] == ["a.org", "", "a.org", ""] and [page.title for page in found] == ["a", "a", "", ""]


def test_answers_that_are_not_tavilys_are_refused():
    for answer in (None, [], {}, {"results": [{"title": 1, "url": "u", "content": "c"}]}):
        with pytest.raises((KeyError, TypeError)):
            as_bing(answer)
    for results in ({}, "", {"a": 1}, None, [None], ["text"]):
        with pytest.raises(TypeError):
            as_bing({"results": results})
    assert as_bing({"results": []}) == {"webPages": {"value": []}}
    assert Path(__file__).read_text().count(KEY) == 0
