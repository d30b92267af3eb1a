"""BM25 index (bm25s): needs neither a model nor torch; for small machines and for comparison.

Lucene's variant; by default k1 0.9 and b 0.4 (as in Pyserini), English stop words, no stemming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tir.common.errors import ConfigError, DataError
from tir.retrieval.corpus import Corpus
from tir.retrieval.files import REMEDY, checked_path, index_digest, open_corpus
from tir.retrieval.passage import Passage

DIRECTORY = "bm25"


@dataclass(frozen=True)
class BM25Config:
    """Settings of BM25.

    Args:
        k1: saturation of term frequency, >= 0.
        b: strength of length normalisation, 0 to 1.
        stopwords: "en" for English stop words, "" for none.
    """

    k1: float = 0.9
    b: float = 0.4
    stopwords: str = "en"

    def __post_init__(self):
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ConfigError("out of range", where="bm25", why=f"k1={self.k1}, b={self.b}", remedy="k1: 0.9, b: 0.4")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "bm25") -> BM25Config:
        """Build from a JSON object; raises `ConfigError` for an unknown key."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError("unknown key", where=f"{where}.{name}", remedy=f"known keys: {', '.join(known)}")
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """The settings that determine results: all of them."""
        return asdict(self)


def _tokens(texts: Sequence[str], config: BM25Config) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords=config.stopwords or None, return_ids=False, show_progress=False)


def build_bm25(corpus: Corpus, config: BM25Config, directory: Path) -> None:
    """Index the contents of all rows and write the files of bm25s to `directory / "bm25"`.

    Raises `DataError` if no row contains a word other than stop words.
    """
    import bm25s

    tokens = _tokens(list(corpus.contents(0, len(corpus))), config)
    if not any(tokens):
        raise DataError(
            "no words to index",
            where=str(corpus.path),
            why=f"every row is blank or consists of stop words ({config.stopwords!r})",
            remedy='BM25Config(stopwords="")  # for build_index; or use another corpus',
        )
    retriever = bm25s.BM25(method="lucene", k1=config.k1, b=config.b)
    retriever.index(tokens, show_progress=False)
    retriever.save(directory / DIRECTORY, show_progress=False)


class BM25Index:
    """BM25 search; passages that share no term with the query are left out, so a result may have fewer than k."""

    def __init__(self, directory: Path, manifest: dict[str, Any]):
        import bm25s

        self.manifest, self.digest = manifest, index_digest(manifest)
        self.config = BM25Config.from_mapping(manifest["settings"], str(directory))
        self.corpus = open_corpus(directory, manifest)
        path = self._path = checked_path(directory, DIRECTORY)
        try:
            self._retriever = bm25s.BM25.load(path, mmap=True, show_progress=False)
        except Exception as error:
            raise DataError(
                "cannot read BM25 files", where=str(path), why=f"{type(error).__name__}: {error}", remedy=REMEDY
            ) from None

    def __len__(self) -> int:
        return len(self.corpus)

    def budget(self) -> str:
        """Memory needed for serving, for the log."""
        size = sum(path.stat().st_size for path in self._path.iterdir())
        return f"bm25, {len(self):,} passages: {size / 1e6:,.1f} MB memory-mapped"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """See `tir.retrieval.index.Index.search`."""
        results = []
        for tokens in _tokens(queries, self.config) if queries else []:
            scores = self._retriever.get_scores(tokens) if tokens else np.zeros(len(self))
            count = min(k, len(scores))
            rows = np.argpartition(-scores, count - 1)[:count]
            # Break ties at the last place by row number, so that results are deterministic.
            lowest = scores[rows].min()
            if lowest > 0:
                rows = np.flatnonzero(scores >= lowest)
            rows = rows[np.lexsort((rows, -scores[rows]))][:count]
            results.append([Passage(*self.corpus.row(int(row)), float(scores[row])) for row in rows if scores[row] > 0])
        return results
