"""All figures of the tools as one table, each beside what it is compared with in the same run.

    make bench-tools            everything but the soak
    make bench-tools SOAK=1     with 10,000 mixed calls, some minutes
    make bench-tools ROWS=1000000 CORPUS=passages.jsonl     retrieval over a million vectors, and over real passages
"""

from __future__ import annotations

import argparse

from bench import retrieval, rollout, sandbox
from bench.table import show

# A part is a title and functions that yield `Figure`s.
PARTS = {"Python sandbox": [sandbox.single_calls, sandbox.throughput, sandbox.barriers], "Rollout loop": [rollout.loops]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the tools.")
    parser.add_argument("--soak", action="store_true", help="10,000 mixed calls as well")
    parser.add_argument("--rows", type=int, default=1 << 17, help="generated vectors of the retrieval part")
    parser.add_argument("--corpus", help="JSON Lines {id, contents}, for real passages as well")
    options = parser.parse_args()
    if options.soak:
        PARTS["Python sandbox"].append(sandbox.soak)
    PARTS["Retrieval"] = [lambda: retrieval.servers(options.rows, options.corpus)]
    for title, parts in PARTS.items():
        show(title, [figure for part in parts for figure in part()])


if __name__ == "__main__":
    main()
