"""Links of pages to files outside docs/: checked, and pointed at the published repository if there is one.

A page says `[base.def](../containers/base.def)`, which works where the repository is browsed. On the site the link goes
to the repository's address (`repo_url` in mkdocs.yml), or becomes a file name where that is empty.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.plugins import get_plugin_logger

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
log = get_plugin_logger("links")


def on_page_markdown(markdown: str, *, page, config, **_) -> str:
    """Rewrite the links of one page (called by MkDocs); a missing file is a warning, which stops a strict build."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def rewritten(match: re.Match) -> str:
        file = (folder / match["target"]).resolve()
        if file.is_relative_to(ROOT / "docs"):
            return match[0]  # MkDocs checks links between pages itself
        if not file.exists():
            log.warning("docs/%s links to %s, which does not exist", page.file.src_uri, match["target"])
        if not config.repo_url:
            return match["text"] if "`" in match["text"] else f"`{match['text']}`"
        kind = "tree" if file.is_dir() else "blob"
        address = f"{config.repo_url.rstrip('/')}/{kind}/main/{file.relative_to(ROOT).as_posix()}"
        return f"[{match['text']}]({address}{match['anchor'] or ''})"

    return LINK.sub(rewritten, markdown)
