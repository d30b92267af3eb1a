"""Tavily's search API (POST /search), its answers turned into Bing's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tir.errors import SearchUnavailable
from tir.service import Refused, Service

KEY_VARIABLE = "TAVILY_API_KEY"
LONGEST_QUERY = 400  # characters; the API refuses longer ones


class Tavily:
    """A client of the API.

    Args:
        key: sent as a bearer token; appears in no error and no record.
        parameters: `max_results`, `search_depth` and whatever else the API takes.
        url, timeout_s, retry_budget_s, concurrency: see `tir.service.Service`. A rate limit (429) is waited for, as long
            as the API says; a plan that is used up (432, 433) is final.
    """

    def __init__(self, key: str, parameters: Mapping[str, Any], *, url: str = "https://api.tavily.com",
                 timeout_s: float = 20.0, retry_budget_s: float = 120.0, concurrency: int = 8):
        self.parameters = dict(parameters)
        self._service = Service(url, SearchUnavailable, "the web search", key=key, timeout_s=timeout_s,
                                retry_budget_s=retry_budget_s, concurrency=concurrency)

    async def search(self, query: str) -> dict[str, Any]:
        """Bing's answer to a query, cut at what the API takes. Raises `SearchUnavailable`."""
        body = {**self.parameters, "query": query[:LONGEST_QUERY], "include_answer": False, "include_raw_content": False}
        try:
            return await self._service.post("/search", body, as_bing)
        except Refused as refused:
            remedy = {401: f"check {KEY_VARIABLE}", 432: "wait for the plan's next period, or raise its limit",
                      433: "raise the pay-as-you-go limit"}.get(refused.status, "check tools.web_search")
            raise self._service.fault(str(refused), remedy) from None


def as_bing(answer: Any) -> dict[str, Any]:
    """Tavily's answer in Bing's shape; raises KeyError, TypeError or ValueError if it is not one of Tavily's."""
    results = answer["results"]
    if not isinstance(results, list):  # a mapping and a text can be gone through too, and look empty when they are
        raise TypeError(f"results is {type(results).__name__}")
    return {"webPages": {"value": [{
        "name": _text(item.get("title") or ""), "url": _text(item["url"]), "siteName": _host(item["url"]),
        "datePublished": _text(item.get("published_date") or ""), "snippet": _text(item["content"]),
    } for item in map(_mapping, results)]}}


def _host(url: str) -> str:
    """The host of an address, empty if it has none that can be read: one odd page must not cost the query its others."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a result is {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return value
