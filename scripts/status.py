"""Show the jobs of the last run of this folder: state, GPUs, node, progress, time left, failures; `make status`."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from tir.workflow import status


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--root", default=".", type=Path, help="folder of the workflow")
    arguments = parse.parse_args()
    log = status.newest_log(arguments.root / ".snakemake" / "log")
    if log is None:
        sys.exit(f"no run yet: {arguments.root / '.snakemake' / 'log'} has no log of Snakemake")
    with open(log, encoding="utf-8", errors="replace") as lines:
        run = status.read(lines)
    notes = status.ask_slurm(run)
    print(status.report(run, notes, now=datetime.now(), root=arguments.root))


if __name__ == "__main__":
    main()
