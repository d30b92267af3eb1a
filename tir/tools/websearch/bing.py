"""The common format of search answers: Bing's, as in upstream `tools/bing_search.py`.

{"webPages": {"value": [{"name", "url", "siteName", "datePublished", "snippet"}, ...]}}
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


class WebSearch(Protocol):
    """A web search; raises `SearchUnavailable` if the service fails, and never returns an empty answer instead."""

    async def search(self, query: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Page:
    """One result: rank from 1, title, address, host, date (YYYY-MM-DD or empty) and snippet without markup."""

    id: int
    title: str
    url: str
    site_name: str
    date: str
    snippet: str


def pages(answer: dict[str, Any]) -> list[Page]:
    """The results in an answer (upstream `extract_relevant_info`); missing fields are empty."""
    return [
        Page(
            rank,
            item.get("name") or "",
            item.get("url") or "",
            item.get("siteName") or "",
            (item.get("datePublished") or "").partition("T")[0],
            plain(item.get("snippet") or ""),
        )
        for rank, item in enumerate(answer.get("webPages", {}).get("value", []), 1)
    ]


def plain(snippet: str) -> str:
    """A snippet without HTML tags and entities; Bing marks matched words with tags."""
    return html.unescape(_TAG.sub("", snippet))


def render_pages(results: Sequence[Page], layout: Literal["titled", "snippets"]) -> str:
    """Results as the text of a tool result.

    `snippets` joins the snippets without a separator, as upstream's `deep_search` does. `titled` writes one paragraph
    per result: its title, then its snippet.
    """
    if layout == "snippets":
        return "".join(page.snippet for page in results)
    return "\n\n".join(f"{page.title}\n{page.snippet}".strip() for page in results)
