"""All figures of the tools as one table, each beside what it is compared with in the same run.

    make bench-tools                       everything; a quarter of an hour on two cores
    make bench-tools QUICK=1               without the soak, and with 131,072 vectors
    make bench-tools CORPUS=passages.jsonl     over these real passages, JSON Lines {id, contents}
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain

from shared_data import SHARED

from bench import retrieval, rollout, sandbox
from bench.table import Figure, show

_PASSAGES = SHARED / "corpus" / "wiki_6k.jsonl"


def parts(quick: bool, corpus: str | None) -> Iterator[tuple[str, Iterable[Figure]]]:
    """Titles, and figures that are measured when they are asked for."""
    soak = [] if quick else sandbox.soak()
    yield "Python sandbox", chain(sandbox.single_calls(), sandbox.throughput(), sandbox.barriers(), soak)
    yield "Retrieval", retrieval.servers(1 << 17 if quick else 1_000_000, corpus)
    yield "Rollout loop", rollout.loops()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the tools.")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--corpus", default=str(_PASSAGES) if _PASSAGES.exists() else None,
                        help="real passages, JSON Lines {id, contents}")
    options = parser.parse_args()
    show(parts(options.quick, options.corpus))


if __name__ == "__main__":
    main()
