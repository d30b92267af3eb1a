"""What every script shares: its parameters as one JSON argument, its errors as one paragraph, no traceback noise."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tir import time_limit
from tir.errors import TirError

_INTERRUPTIONS = {signal.SIGTERM: "SIGTERM: the job was cancelled or preempted", signal.SIGALRM: "the job's time limit is near"}


def parser(description: str) -> argparse.ArgumentParser:
    """Argument parser of a script; `--params` carries the sub-configuration its rule reads, as canonical JSON."""
    parse = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--params", type=json.loads, default={}, help="sub-configuration of the rule, JSON")
    parse.add_argument("--operation", type=json.loads, default={}, help="how long to wait and how much to do at once, JSON; "
                                                                        "decides no result")
    return parse


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a `TirError` ends it with its paragraph and status 1, SIGTERM and the approach of a job's
    time limit as if interrupted."""
    # A rule's shell ignores Ctrl-C (Snakefile), and so would its script. Python's own handler, for asyncio ends its tasks by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    time_limit.set_alarm()
    try:
        main()
    except TirError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        if os.environ.get("TIR_TRACEBACK"):
            traceback.print_exc()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"\nno space left: {error}.\n  try: df -h .  # free some, then run the same command again; what is complete is kept",
              file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted ({str(stop) or 'Ctrl-C'}): what is complete is kept; run the same command to continue.", file=sys.stderr)
        sys.exit(130)


def _interrupt(number: int, _frame) -> None:
    raise KeyboardInterrupt(_INTERRUPTIONS[number])
