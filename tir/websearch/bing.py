"""The shape every provider's answer takes: Bing's, which upstream's reader expects (UPSTREAM `tools/bing_search.py`).

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
    """A search of the web; raises `SearchUnavailable` when the service failed, never returns an empty answer for that."""

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
    """Read an answer (upstream `extract_relevant_info`); fields that are missing are empty."""
    return [Page(rank, item.get("name") or "", item.get("url") or "", item.get("siteName") or "",
                 (item.get("datePublished") or "").partition("T")[0], plain(item.get("snippet") or ""))
            for rank, item in enumerate(answer.get("webPages", {}).get("value", []), 1)]


def plain(snippet: str) -> str:
    """A snippet without HTML: Bing marks the words it matched."""
    return html.unescape(_TAG.sub("", snippet))


def render_pages(found: Sequence[Page], layout: Literal["titled", "snippets"]) -> str:
    """Results as the text of a tool result.

    `snippets` runs the snippets together without a separator, as upstream's `deep_search` does; `titled` gives each its
    title and a paragraph of its own.
    """
    if layout == "snippets":
        return "".join(page.snippet for page in found)
    return "\n\n".join(f"{page.title}\n{page.snippet}".strip() for page in found)
