"""All figures of the tools as one table, each beside what it is compared with in the same run.

    make bench-tools            everything but the soak
    make bench-tools SOAK=1     with 10,000 mixed calls, some minutes
"""

from __future__ import annotations

import argparse

from bench import sandbox
from bench.table import show

# A part is a title and functions that yield `Figure`s.
PARTS = {"Python sandbox": [sandbox.single_calls, sandbox.throughput, sandbox.barriers]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the tools.")
    parser.add_argument("--soak", action="store_true", help="10,000 mixed calls as well")
    if parser.parse_args().soak:
        PARTS["Python sandbox"].append(sandbox.soak)
    for title, parts in PARTS.items():
        show(title, [figure for part in parts for figure in part()])


if __name__ == "__main__":
    main()
