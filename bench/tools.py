"""Measurements of the sandbox, retrieval and rollout loop in one table, each with its comparison from the same run.

make bench-tools                       everything; about 15 minutes on two cores
make bench-tools QUICK=1               without the endurance test, and with 131,072 instead of 1,000,000 vectors
make bench-tools CORPUS=passages.jsonl     with these real passages, JSON Lines {id, contents}
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain

from support.shared_data import SHARED

from bench import retrieval, rollout, sandbox
from bench.table import Figure, show

_PASSAGES = SHARED / "corpus" / "wiki_6k.jsonl"


def sections(quick: bool, corpus: str | None) -> Iterator[tuple[str, Iterable[Figure]]]:
    """(title, figures) of each section; iterating over the figures runs the measurements."""
    endurance = [] if quick else sandbox.endurance()
    yield "Python sandbox", chain(sandbox.single_calls(), sandbox.throughput(), sandbox.barriers(), endurance)
    yield "Retrieval", retrieval.servers(1 << 17 if quick else 1_000_000, corpus)
    yield "Rollout loop", rollout.loops()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the sandbox, retrieval and the rollout loop.")
    parser.add_argument("--quick", action="store_true", help="skip the endurance test and use fewer vectors")
    parser.add_argument(
        "--corpus",
        default=str(_PASSAGES) if _PASSAGES.exists() else None,
        help="real passages, JSON Lines {id, contents}",
    )
    options = parser.parse_args()
    show(sections(options.quick, options.corpus))


if __name__ == "__main__":
    main()
