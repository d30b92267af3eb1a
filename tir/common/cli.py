"""Common command-line interface of all scripts: parameters as JSON, short error messages, handling of interruptions."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tir.common import environment, time_limit
from tir.common.errors import ConfigError, TirError

_INTERRUPTIONS = {
    signal.SIGTERM: "SIGTERM: the job was cancelled or preempted",
    signal.SIGALRM: "the job's time limit is near",
}


def parser(description: str) -> argparse.ArgumentParser:
    """Argument parser of a script, with the options `--params` and `--operational`, both JSON."""
    parse = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--params", type=json.loads, default={}, help="the rule's part of the configuration, JSON")
    parse.add_argument(
        "--operational",
        type=json.loads,
        default={},
        help="settings that do not affect results, such as timeouts and concurrency, JSON",
    )
    return parse


def command(main: Callable[[], None], install: str) -> None:
    """Run the `main` of a console command like that of a script, in the user's environment and a stage's arithmetic.

    An index that is built or served by hand then has the embeddings and scores of the workflow's.

    Args:
        main: the command.
        install: the `pip install` line to print if a package is missing.
    """

    def checked() -> None:
        os.environ |= environment.ARITHMETIC
        try:
            main()
        except ModuleNotFoundError as error:
            raise ConfigError(
                "not installed", where=str(error.name), why="this command needs it", remedy=install
            ) from None

    run(checked, host=True)


def run(main: Callable[[], None], *, host: bool = False) -> None:
    """Run a script's `main`, by default as a stage: in the environment of `tir.common.environment`.

    Args:
        main: the script.
        host: keep the caller's environment: the script downloads, builds images, or is a user's command.

    A `TirError` or a full disk prints a short message and exits with status 1. Ctrl-C, SIGTERM and the approach of the
    job's time limit raise `KeyboardInterrupt` in `main` and exit with status 130.
    """
    # The shell of a rule ignores Ctrl-C (see the Snakefile), and child processes inherit that. Restore Python's default
    # handler, which asyncio needs to cancel its tasks.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    time_limit.set_alarm()
    if not host:
        environment.prepare()
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
        print(
            f"\nno space left: {error}.\n  try: df -h .  # free some space, then run the same command again; completed "
            "work is kept",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        print(
            f"\ninterrupted ({str(interruption) or 'Ctrl-C'}): completed work is kept; run the same command again to "
            "continue.",
            file=sys.stderr,
        )
        sys.exit(130)


def _interrupt(number: int, _frame) -> None:
    raise KeyboardInterrupt(_INTERRUPTIONS[number])
