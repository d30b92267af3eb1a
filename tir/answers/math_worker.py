"""The process that decides whether two LaTeX expressions are equal. It may hang or die; its owner replaces it.

Protocol, one JSON object a line. In: `{"prediction": str, "gold": str, "deadline": seconds}`. Out: `{"equal": bool}`
or `{"error": str}`; the first line out is `{"ready": true}`. The process limits itself: an alarm with the default
action ends it even while C code holds the interpreter (`9^{9^{9^9}}`), and its address space is bounded.

Run by `tir.answers.verifier` only. It imports nothing of the project.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from dataclasses import replace

MEMORY_LIMIT = 4 * 2**30  # bytes of address space; sympy's own mapping takes about 0.5 GiB of it
GRACE = 1.0  # seconds after the owner's deadline at which the kernel ends a worker whose owner is gone


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing a library prints may reach the answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compare = _comparer()
    _reply(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["deadline"] + GRACE)
        try:
            answer = {"equal": compare(request["prediction"], request["gold"])}
        except Exception as error:  # an expression outside the grammar is a model fault: unequal, with a reason
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(answers, answer)


def _reply(stream, value: dict) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def _comparer():
    logging.disable(logging.WARNING)  # math-verify warns on every call that its own, signal-based time-outs are off
    from math_verify import LatexExtractionConfig, parse, verify

    spelling = replace(LatexExtractionConfig().normalization_config, units=False)  # it takes 4ab and 5t for 4 and 5
    # Never its expression search: that finds a number in any prose.
    config = [LatexExtractionConfig(normalization_config=spelling)]

    def read(text: str) -> list:
        return parse(f"${text}$", extraction_config=config, parsing_timeout=None)

    def compare(prediction: str, gold: str) -> bool:
        wanted, given = read(gold), read(prediction)
        return bool(wanted and given and verify(wanted, given, timeout_seconds=None))

    return compare


if __name__ == "__main__":
    main()
