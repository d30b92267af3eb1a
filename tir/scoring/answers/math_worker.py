"""The worker process that decides whether two mathematical answers are equal.

`verifier` replaces the process if it hangs or dies.

Protocol: one JSON object per line. Input: `{"prediction": str, "gold": str, "deadline": seconds}`. Output: first
`{"ready": true}`, then for each input `{"equal": bool}` or `{"error": str}`. The process limits its own time and
memory: an alarm with the default action ends it even if C code blocks the interpreter (`9^{9^{9^9}}`).

Only `tir.scoring.answers.verifier` runs this module.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys

MEMORY_LIMIT = 4 * 2**30  # bytes of address space; sympy alone maps about 0.5 GiB
GRACE = 1.0  # seconds after the deadline until the alarm ends the worker, in case its parent no longer exists


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # redirect prints of libraries to stderr, away from the answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compare = _comparer()
    _reply(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["deadline"] + GRACE)
        try:
            answer = {"equal": compare(request["prediction"], request["gold"])}
        except Exception as error:  # an expression that cannot be parsed is a model fault and counts as unequal
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(answers, answer)


def _reply(stream, value: dict) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def _comparer():
    logging.disable(logging.WARNING)
    from tir.scoring.answers.math_same import equal

    equal(r"\frac{1}{2}\sqrt{3} \text{ m}", r"100\pi \text{ cm}")  # loads what the first comparisons need
    return equal


if __name__ == "__main__":
    main()
