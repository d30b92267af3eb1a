"""A client of Tavily's search API (POST /search); its answers are converted to Bing's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from tir.common.errors import SearchUnavailable
from tir.common.http import Refused, Service, require_type
from tir.common.keys import SEARCH

LONGEST_QUERY = 400  # characters; the API rejects longer queries


class Tavily:
    """A client of the API.

    Args:
        key: sent as a bearer token; never written to an error or a record.
        parameters: `max_results`, `search_depth` and other parameters of the API.
        url, timeout_s, retry_budget_s, concurrency: see `tir.common.http.Service`. After a rate limit (429) the client
            waits as long as the API asks; a used-up plan (432, 433) is an error at once.
    """

    def __init__(
        self,
        key: SecretStr,
        parameters: Mapping[str, Any],
        *,
        url: str,
        timeout_s: float,
        retry_budget_s: float,
        concurrency: int,
    ):
        self.parameters = dict(parameters)
        self._service = Service(
            url,
            SearchUnavailable,
            "the web search",
            key=key,
            timeout_s=timeout_s,
            retry_budget_s=retry_budget_s,
            concurrency=concurrency,
        )

    async def search(self, query: str) -> dict[str, Any]:
        """The answer in Bing's format; queries are cut at `LONGEST_QUERY`. Raises `SearchUnavailable`."""
        body = {
            **self.parameters,
            "query": query[:LONGEST_QUERY],
            "include_answer": False,
            "include_raw_content": False,
        }
        try:
            return await self._service.post("/search", body, as_bing)
        except Refused as refused:
            remedy = {
                401: f"export {SEARCH}=...  # a valid key",
                432: "wait for the next period of your Tavily plan, or raise the plan's limit",
                433: "raise the pay-as-you-go limit of your Tavily account",
            }.get(refused.status, "check the settings under tools.web_search")
            raise self._service.fault(str(refused), remedy) from None


def as_bing(answer: Any) -> dict[str, Any]:
    """Tavily's answer in Bing's format; raises KeyError, TypeError or ValueError if the answer is malformed."""
    results = require_type(
        answer["results"], list
    )  # iterating over an empty mapping or text would look like no results
    return {
        "webPages": {
            "value": [
                {
                    "name": require_type(item.get("title") or "", str),
                    "url": require_type(item["url"], str),
                    "siteName": _host(item["url"]),
                    "datePublished": require_type(item.get("published_date") or "", str),
                    "snippet": require_type(item["content"], str),
                }
                for item in (require_type(result, dict) for result in results)
            ]
        }
    }


def _host(url: str) -> str:
    """The host of an address, or "" if the address cannot be parsed; one odd address must not fail the whole query."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
